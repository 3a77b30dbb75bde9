"""The reference zoo: one small model of every architecture that graphopt should handle, in plain torch.

Every entry of `ZOO` is a function without required arguments that returns a module in eval mode and example
positional arguments. Entries are deterministic and leave the global random state alone. Each is also
reachable as `graphopt.models.<file>:<name>`, next to the full-size variants of its paper, such as
`graphopt.models.resnet:resnet50`. Importing this package imports neither torch nor any model.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .layers import Built

__all__ = ["CNNS", "ZOO", "build"]

_CNN_FILES = {
    "lenet": "lenet",
    "vgg": "vgg",
    "resnet": "resnet",
    "resnet_bottleneck": "resnet",
    "preact_resnet": "preact_resnet",
    "resnext": "resnet",
    "densenet": "densenet",
    "inception": "inception",
    "mobilenet_v2": "mobilenet",
    "mobilenet_v3": "mobilenet",
    "shufflenet_v2": "shufflenet",
    "efficientnet": "efficientnet",
    "regnet_y": "regnet",
    "squeezenet": "squeezenet",
    "unet": "unet",
    "convnext": "convnext",
}
_OTHER_FILES = {
    "vit": "vit",
    "swin": "swin",
    "mlp_mixer": "mixer",
    "bert": "bert",
    "gpt": "gpt",
    "lstm_tagger": "recurrent",
    "gru_classifier": "recurrent",
    "image_vector": "multimodal",
}


def _entry(file: str, name: str) -> Callable[[], Built]:
    def builder() -> Built:
        return cast("Built", getattr(import_module(f"{__name__}.{file}"), name)())

    builder.__name__ = builder.__qualname__ = name
    return builder


CNNS: tuple[str, ...] = tuple(_CNN_FILES)
"""Names in `ZOO` that are convolutional networks."""

ZOO: dict[str, Callable[[], Built]] = {name: _entry(file, name) for name, file in (_CNN_FILES | _OTHER_FILES).items()}
"""Every model of the zoo: its name, and the builder with the zoo's small defaults."""


def build(name: str) -> Built:
    """Build a zoo model by name.

    Args:
        name: A key of `ZOO`.

    Returns:
        The module in eval mode and example positional arguments.

    Raises:
        ValueError: No model has that name; the message names the nearest ones.
    """
    if name not in ZOO:
        near = get_close_matches(name, ZOO) or sorted(ZOO)
        raise ValueError(f"no model {name!r} in the zoo; did you mean {', '.join(near)}?")
    return ZOO[name]()
