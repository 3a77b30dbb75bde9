"""Converters from torch's operators, one file per family; importing a family registers its converters."""

from graphopt.frontends.aten import (  # noqa: F401
    activation,
    attention,
    control,
    conv,
    create,
    elementwise,
    indexing,
    join,
    linear,
    norm,
    pool,
    random,
    recurrent,
    reduce,
    resize,
    scattering,
    sizes,
    special,
    views,
)
from graphopt.frontends.aten.builder import Builder
from graphopt.frontends.aten.registry import NoConversion, converted, converts, find_converter, target_name

__all__ = ["Builder", "NoConversion", "converted", "converts", "find_converter", "target_name"]
