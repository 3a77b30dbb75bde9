"""insert-weight-qdq: weights alone, in the number format of one's choice; activations stay float."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch

from graphopt.errors import OptionError, PassError
from graphopt.ir import DType, Graph, Node, Value
from graphopt.ir.names import unique_names
from graphopt.passes.quantize.companding import hold_within, insert_piecewise
from graphopt.passes.quantize.fit import (
    Search,
    fit_piecewise,
    fit_range,
    fit_table,
    nearest_entries,
    powers_of_two,
    rows_of,
    storage,
)
from graphopt.passes.quantize.nothing import why_nothing
from graphopt.passes.quantize.pairs import activation_pairs, add_parameters, insert_pair
from graphopt.passes.quantize.placement import WeightSite
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.passes.quantize.sites import Granularity, gather_weights, weight_sites
from graphopt.passes.quantize.tables import insert_table
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import Scheme, load_target

Format: TypeAlias = Literal["linear", "piecewise", "kmeans", "power-of-two", "float8e4m3fn", "float8e5m2"]

_TABLES = ("kmeans", "power-of-two")


@register("insert-weight-qdq")
@dataclass(frozen=True)
class InsertWeightQDQ(Pass):
    """Quantize weights, and nothing else: smaller files, and less to read where weights are what takes the time.

    Formats: "linear" (a uniform grid, symmetric or not); "piecewise" (PWLQ, arXiv:2002.00104: a dense grid in the
    centre and a sparse one in the tail, each of `bits`, stored with one bit more); "kmeans" (a table of 2^bits numbers
    and small indices into it); "power-of-two" (such a table of 0 and +-2^-k, with scales that are powers of two);
    "float8e4m3fn" and "float8e5m2". The first two and the last two leave the weights float behind Q/DQ pairs, where
    they can be trained; `pack-weights` stores the integers. Of a k-means table the entries can be trained.

    Attributes:
        format: of the numbers.
        bits: of each number, 2 to 16; tables have 2 to 8.
        granularity: what has a scale: "global" (all weights one), "tensor", "channel" (one per output), "block" (one
            per `block` elements that are summed), "element" (one for each: a bound on what quantization can do).
        block: elements per block, which makes granularity "block"; 32 where only granularity is given.
        symmetric: no zero points.
        search: "minmax" covers the whole range, "mse" the part of it with the least square error.
        ignore: patterns of node, module or tensor names that stay float.
        operators: the operators whose weights to quantize; all that the target names when empty.
        target: name of a target, or the path of a TOML file: which inputs are weights, along which axis.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE

    format: Format = "linear"
    bits: int = 8
    granularity: Granularity = "channel"
    block: int = 0
    symmetric: bool = True
    search: Search = "minmax"
    ignore: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    target: str = "generic"

    def __post_init__(self) -> None:
        target = load_target(self.target)
        most = 8 if self.format in _TABLES else 15 if self.format == "piecewise" else 16
        if not 2 <= self.bits <= most:
            raise self._error("bits", self.bits, f"give 2 to {most} for format={self.format}")
        if self.block < 0 or (self.block and self.granularity not in ("channel", "block")):
            raise self._error("block", self.block, "give 1 or more, and no other granularity")
        if not self.symmetric and self.format != "linear":
            raise self._error("symmetric", "false", f"format={self.format} is symmetric")
        if self.format == "piecewise" and self.shared_by in ("block", "element"):
            raise self._error("granularity", self.shared_by, "format=piecewise takes global, tensor or channel")
        if self.format in _TABLES and self.granularity == "element":
            raise self._error("granularity", "element", "a table with a scale for each element saves nothing")
        for op in self.operators:
            if op not in target.operators:
                raise self._error("operators", op, f"target '{target.name}' has {', '.join(sorted(target.operators))}")

    def _error(self, option: str, value: object, hint: str) -> OptionError:
        return OptionError(f"{option} is {value}", where=f"insert-weight-qdq{{{option}}}", hint=hint)

    @property
    def shared_by(self) -> Granularity:
        """The granularity that is meant: blocks where their size is given."""
        return "block" if self.block else self.granularity

    def run(self, graph: Graph, context: Context) -> Changes:
        target = load_target(self.target)
        gather_weights(graph, target)
        sites = weight_sites(graph, target, self.shared_by, self.block or 32, self.ignore, self.operators)
        if not sites:
            raise PassError(
                "there is no float32 weight to quantize", where=self.name,
                hint=why_nothing(graph, self.operators or target.operators, bodies=True),
            )  # fmt: skip
        if any(True for _ in activation_pairs(graph)):
            raise PassError(
                "activations are quantized already", where=self.name, hint="their weights come with insert-qdq"
            )
        unique_names(graph)
        before = sum(site.value.data.nbytes for site in _distinct(sites) if site.value.data is not None)
        bits = _INSERT[self.format](self, sites)
        kinds = Counter(site.use.user.op for site in sites if isinstance(site.use.user, Node))
        note = f"{len(_distinct(sites))} weights, {before / 1e6:.2f} MB to {bits / 8e6:.2f} MB once packed"
        return Changes(True, counts=dict(kinds), notes=(note,), details={"bytes": before, "packed_bytes": bits / 8})


def _distinct(sites: Sequence[WeightSite]) -> list[WeightSite]:
    return list({site.value: site for site in sites}.values())


#: Puts something in place of a weight, and says what the readers are to read.
_Insert = Callable[[Graph, WeightSite, Node], Value]


def _replace(sites: Sequence[WeightSite], insert: _Insert) -> None:
    """Has every site read what `insert` makes for it; sites that are alike share that."""
    first: dict[tuple[object, ...], Node] = {}
    for site in sites:
        reader = _reader(site)
        earlier = first.get(key := _key(site))
        first[key] = reader if earlier is None or reader.is_before(earlier) else earlier
    made: dict[tuple[object, ...], Value] = {}
    for site in sites:
        key, reader = _key(site), _reader(site)
        if key not in made:
            assert reader.graph is not None, "sites are in graphs"
            made[key] = insert(reader.graph, site, first[key])
        reader.set_input(site.use.index, made[key])
    for site in sites:
        if site.value.graph is not None:
            site.value.graph.sweep([site.value])


def _key(site: WeightSite) -> tuple[object, ...]:
    return site.value, site.axis, site.block, _reader(site).graph


def _reader(site: WeightSite) -> Node:
    assert isinstance(site.use.user, Node), "weights are read by nodes"
    return site.use.user


def _data(site: WeightSite) -> torch.Tensor:
    assert site.value.data is not None, "weights are constants"
    return site.value.data


def _shaped(site: WeightSite, rows: torch.Tensor) -> torch.Tensor:
    """A vector [rows] in the shape of scales."""
    return rows.reshape(site.parameter_shape(_data(site).shape))


def _insert_linear(options: InsertWeightQDQ, sites: Sequence[WeightSite]) -> float:
    if options.format == "linear":
        scheme = Scheme(storage(options.bits, options.symmetric), options.symmetric, bits=options.bits)
    else:
        scheme = Scheme(DType[options.format.upper()], symmetric=True)
    shared: dict[Graph, tuple[Value, Value]] = {}
    whole = None
    if options.granularity == "global":
        rows = [rows_of(_data(site), None) for site in _distinct(sites)]
        whole = fit_range(torch.cat(rows, 1), scheme, options.search)

    def insert(home: Graph, site: WeightSite, before: Node) -> Value:
        low, high = whole or fit_range(rows_of(_data(site), site.axis, site.block), scheme, options.search)
        if whole is None or home not in shared:
            scale, zero = parameters_of_range(_shaped(site, low), _shaped(site, high), scheme)
            name = site.value.name if whole is None else "weights"
            shared[home] = add_parameters(home, name, scale, zero, scheme)
        origin, value = before.origin.touched_by(InsertWeightQDQ.name), site.value
        if 0 < scheme.bits < scheme.dtype.bits:
            value = hold_within(home, value, site, shared[home], scheme.limits, before, origin)
        return insert_pair(home, value, *shared[home], site.axis, before, origin, site.block).dequantize.output

    _replace(sites, insert)
    scales = 1 if whole else sum(math.prod(site.parameter_shape(_data(site).shape)) for site in _distinct(sites))
    zeros = 0 if options.symmetric else scheme.dtype.bits
    return sum(_data(site).numel() for site in _distinct(sites)) * scheme.dtype.bits + scales * (32 + zeros)


def _insert_piecewise(options: InsertWeightQDQ, sites: Sequence[WeightSite]) -> float:
    whole = None
    if options.granularity == "global":
        whole = fit_piecewise(torch.cat([rows_of(_data(site), None) for site in _distinct(sites)], 1), options.bits)
    dtype = storage(options.bits + 1, symmetric=True)

    def insert(home: Graph, site: WeightSite, before: Node) -> Value:
        fitted = whole or fit_piecewise(rows_of(_data(site), site.axis), options.bits)
        return insert_piecewise(home, site, fitted, dtype, before, before.origin.touched_by(InsertWeightQDQ.name))

    _replace(sites, insert)
    parameters = sum(4 * math.prod(site.parameter_shape(_data(site).shape)) for site in _distinct(sites))
    return sum(_data(site).numel() for site in _distinct(sites)) * dtype.bits + parameters * 32


def _insert_tables(options: InsertWeightQDQ, sites: Sequence[WeightSite]) -> float:
    fixed = powers_of_two(options.bits) if options.format == "power-of-two" else None
    scales = {site.value: _table_scales(site, options) for site in _distinct(sites)}
    shared = None
    if options.granularity == "global":
        size = max(float(scale.max()) for scale in scales.values())
        scales = {value: scale.new_full((1,), size) for value, scale in scales.items()}
        if fixed is None:
            normal = [rows_of(_data(site), None) / size for site in _distinct(sites)]
            shared = fit_table(normal, 2**options.bits)

    def insert(home: Graph, site: WeightSite, before: Node) -> Value:
        rows, scale = rows_of(_data(site), site.axis, site.block), scales[site.value]
        normal = rows / scale[:, None]
        table = fixed if fixed is not None else shared if shared is not None else fit_table([normal], 2**options.bits)
        origin = before.origin.touched_by(InsertWeightQDQ.name)
        return insert_table(
            home, site, table, _shaped(site, scale), before, origin, trainable=fixed is None
        )  # fmt: skip

    _replace(sites, insert)
    count = sum(math.prod(site.parameter_shape(_data(site).shape)) for site in _distinct(sites))
    tables = (1 if shared is not None or fixed is not None else len(scales)) * 2**options.bits
    elements = sum(_data(site).numel() for site in _distinct(sites))
    return float(elements * storage(options.bits, False).bits + (count + tables) * 32)


def _table_scales(site: WeightSite, options: InsertWeightQDQ) -> torch.Tensor:
    """What rows are divided by: their greatest magnitude; for powers of two the next such, or the one below it."""
    rows = rows_of(_data(site), site.axis, site.block)
    size = rows.abs().amax(1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    if options.format != "power-of-two":
        return size
    upper = 2.0 ** size.log2().ceil()
    table, error = powers_of_two(options.bits), []
    for scale in (upper, upper / 2):
        step = scale[:, None]
        error.append((table[nearest_entries(rows / step, table)] * step - rows).square().sum(1))
    return torch.where(error[0] <= error[1], upper, upper / 2)


_INSERT: dict[str, Callable[[InsertWeightQDQ, Sequence[WeightSite]], float]] = {
    "linear": _insert_linear, "float8e4m3fn": _insert_linear, "float8e5m2": _insert_linear,
    "piecewise": _insert_piecewise, "kmeans": _insert_tables, "power-of-two": _insert_tables,
}  # fmt: skip
