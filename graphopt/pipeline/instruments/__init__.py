"""Instruments: what watches the passes of a run."""

from graphopt.pipeline.instruments.base import Instrument
from graphopt.pipeline.instruments.cost import CostDelta
from graphopt.pipeline.instruments.crash import Reproducer
from graphopt.pipeline.instruments.equivalence import Equivalence
from graphopt.pipeline.instruments.show import PrintGraph
from graphopt.pipeline.instruments.verify import Verify

__all__ = ["CostDelta", "Equivalence", "Instrument", "PrintGraph", "Reproducer", "Verify"]
