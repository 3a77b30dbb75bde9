"""The runtime level: operators of one runtime alone, off unless asked for. Importing this registers the pass."""

from graphopt.passes.runtime.runtime_fuse import RuntimeFuse

__all__ = ["RuntimeFuse"]
