"""Matrix products: MatMul, Gemm and Einsum; and the determinant."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, Shape, TensorType, Value, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import broadcast, input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels


def _check_inner(node: Node, a: Dim, b: Dim) -> None:
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise ShapeError(f"inner dimensions {a} and {b} differ", where=node.describe())


# -- MatMul


def matmul_shape(node: Node, a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of numpy's matmul. Raises ShapeError when the operands do not fit."""
    if a is None or b is None:
        return None
    if not a or not b:
        raise ShapeError("a scalar cannot be an operand of a matrix product", where=node.describe())
    _check_inner(node, a[-1], b[-2] if len(b) > 1 else b[0])
    batch = broadcast(node, a[:-2], b[:-2]) or ()
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else ()
    return (*batch, *rows, *columns)


def infer_matmul(node: Node) -> list[ValueType]:
    """Type rule of MatMul."""
    a, b = input_type(node, 0), input_type(node, 1)
    return [TensorType(a.dtype, matmul_shape(node, a.shape, b.shape))]


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """ONNX MatMul: as numpy.matmul."""
    return torch.matmul(a, b)


def relate_matmul(node: Node) -> Relation:
    """Rows and columns go through, the inner dimension is shared, batch dimensions broadcast."""
    a = "k" if node.operand(0).rank == 1 else "... m k"
    b = "k" if node.operand(1).rank == 1 else "... k n"
    result = "..." + (" m" if "m" in a else "") + (" n" if "n" in b else "")
    return labels(node, f"{a}, {b} -> {result}")


def matmul_macs(node: Node) -> Dim:
    """Multiply-accumulates of MatMul: output elements times the inner dimension."""
    a, y = node.operand(0).shape, node.output.shape
    return None if a is None or y is None else D.mul(D.product(y), a[-1])


# -- Gemm


def infer_gemm(node: Node) -> list[ValueType]:
    """Type rule of Gemm: [M, N]."""
    a, b, c = (input_type(node, i) for i in range(3))
    for index, kind in enumerate((a, b)):
        if kind.shape is not None and len(kind.shape) != 2:
            raise ShapeError(f"input {index} has rank {len(kind.shape)}, Gemm needs 2", where=node.describe())
    left = a.shape if a.shape is not None else (None, None)
    right = b.shape if b.shape is not None else (None, None)
    m, k = left[::-1] if attribute(node, "transA") else left
    inner, n = right[::-1] if attribute(node, "transB") else right
    _check_inner(node, k, inner)
    if c.shape is not None:
        total = broadcast(node, (m, n), c.shape)
        if total is not None and (len(total) != 2 or _grows(total, (m, n))):
            raise ShapeError(f"input C {list(c.shape)} does not broadcast to [{m}, {n}]", where=node.describe())
    return [TensorType(a.dtype, (m, n))]


def _grows(total: Shape, shape: Shape) -> bool:
    pairs = zip(total, shape, strict=True)
    return any(isinstance(t, int) and isinstance(d, int) and t != d for t, d in pairs)


def gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> torch.Tensor:
    """ONNX Gemm: ``alpha * a' @ b' + beta * c`` with c broadcast to [M, N]."""
    a = a.t() if transA else a
    b = b.t() if transB else b
    if c is not None and a.is_floating_point():
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    y = a @ b
    y = y if alpha == 1 else (y * alpha).to(a.dtype)
    if c is None:
        return y
    return y + (c if beta == 1 else (c * beta).to(a.dtype))


def relate_gemm(node: Node) -> Relation:
    """Rows and columns go through (with what C has of them), the inner dimension is shared."""
    a = "k m" if attribute(node, "transA") else "m k"
    b = "n k" if attribute(node, "transB") else "k n"
    return labels(node, f"{a}, {b}, {broadcast_to_matrix(node.input(2))} -> m n")


def broadcast_to_matrix(value: Value | None) -> str:
    """Notation of what broadcasts to rows m and columns n."""
    shape = () if value is None or value.shape is None else value.shape
    names = ["_" if extent == 1 else name for extent, name in zip(shape[::-1], "nm", strict=False)]
    return " ".join(reversed(names))


def gemm_macs(node: Node) -> Dim:
    """Multiply-accumulates of Gemm: M * N * K."""
    a, y = node.operand(0).shape, node.output.shape
    return None if a is None or y is None else D.mul(D.product(y), a[0 if attribute(node, "transA") else 1])


# -- Einsum


@dataclass(frozen=True)
class Equation:
    """An einsum equation over operands of known rank.

    Attributes:
        terms: for each operand its labels; the dimensions of an ellipsis are ``~1``, ``~2``, ... from the right.
        result: labels of the result.
    """

    terms: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]

    @classmethod
    def parse(cls, node: Node) -> Equation | None:
        """The equation of an Einsum; ``None`` while the rank of an operand is unknown.

        Raises:
            ShapeError: when equation and operands do not fit.
        """
        text = str(attribute(node, "equation")).replace(" ", "")
        left, arrow, right = text.partition("->")
        specs = left.split(",")
        if len(specs) != len(node.inputs):
            raise ShapeError(
                f"equation '{text}' has {len(specs)} terms for {len(node.inputs)} inputs", where=node.describe()
            )
        ranks = [value.rank if value is not None else None for value in node.inputs]
        if any(rank is None for rank in ranks):
            return None
        terms = tuple(_expand(node, spec, rank or 0) for spec, rank in zip(specs, ranks, strict=True))
        wide = sorted({label for term in terms for label in term if label[0] == "~"}, key=lambda t: -int(t[1:]))
        if not arrow:
            joined = [label for term in terms for label in term if label[0] != "~"]
            right = ("..." if wide else "") + "".join(sorted({c for c in joined if joined.count(c) == 1}))
        head, _, tail = right.partition("...")
        result = (*head, *(wide if "..." in right else ()), *tail)
        return cls(terms, result)


def _expand(node: Node, spec: str, rank: int) -> tuple[str, ...]:
    head, dots, tail = spec.partition("...")
    count = rank - len(head) - len(tail)
    if count < 0 or (count and not dots):
        raise ShapeError(f"equation term '{spec}' does not fit an input of rank {rank}", where=node.describe())
    return (*head, *(f"~{count - i}" for i in range(count)), *tail)


def _label_sizes(node: Node, equation: Equation) -> dict[str, Dim]:
    sizes: dict[str, Dim] = {}
    for term, value in zip(equation.terms, node.inputs, strict=True):
        for label, size in zip(term, (value.shape if value is not None else None) or (), strict=True):
            merged = broadcast(node, (sizes.get(label, 1),), (size,))
            sizes[label] = merged[0] if merged else None
    return sizes


def infer_einsum(node: Node) -> list[ValueType]:
    """Type rule of Einsum."""
    dtype = input_type(node, 0).dtype
    equation = Equation.parse(node)
    if equation is None:
        return [TensorType(dtype)]
    sizes = _label_sizes(node, equation)
    missing = [label for label in equation.result if label not in sizes]
    if missing:
        raise ShapeError(f"result label '{missing[0]}' is in no term of the equation", where=node.describe())
    return [TensorType(dtype, tuple(sizes[label] for label in equation.result))]


def einsum(*operands: torch.Tensor, equation: str) -> torch.Tensor:
    """ONNX Einsum."""
    return torch.einsum(equation, *operands)


def relate_einsum(node: Node) -> Relation | None:
    """The labels of the equation; a broadcast dimension of 1 ties nothing."""
    equation = Equation.parse(node)
    if equation is None:
        return None
    sizes = _label_sizes(node, equation)

    def spec(term: tuple[str, ...], shape: Shape | None) -> str:
        return " ".join(
            "_" if extent == 1 and sizes[label] != 1 else label.replace("~", "wide")
            for label, extent in zip(term, shape or (), strict=True)
        )

    left = ",".join(spec(t, v.shape) for t, v in zip(equation.terms, node.inputs, strict=True) if v is not None)
    return labels(node, f"{left} -> {spec(equation.result, tuple(sizes[x] for x in equation.result))}")


def einsum_macs(node: Node) -> Dim:
    """Multiply-accumulates of Einsum, contracted two operands at a time from the left; a single operand has none."""
    equation = Equation.parse(node)
    if equation is None:
        return None
    sizes = _label_sizes(node, equation)
    total: Dim = 0
    held = set(equation.terms[0])
    for step, term in enumerate(equation.terms[1:], start=2):
        needed = set(equation.result).union(*equation.terms[step:])
        # A label of one operand only, needed no more, is summed before the product.
        product = {label for label in held | set(term) if label in needed or (label in held and label in term)}
        total = D.add(total, D.product([sizes[label] for label in sorted(product)]))
        held = product & needed
    return total


# -- Det


def infer_det(node: Node) -> list[ValueType]:
    """Type rule of Det: the batch dimensions."""
    x = input_type(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype)]
    if len(x.shape) < 2:
        raise ShapeError(f"input has rank {len(x.shape)}, at least 2 is needed", where=node.describe())
    _check_inner(node, x.shape[-2], x.shape[-1])
    return [TensorType(x.dtype, x.shape[:-2])]


def det(x: torch.Tensor) -> torch.Tensor:
    """ONNX Det of x [..., M, M]."""
    return torch.det(x)


def relate_det(node: Node) -> Relation:
    """Batch dimensions go through."""
    return labels(node, "... !m !m -> ...", reasons={"m": "a determinant needs its whole matrix"})


register(
    Operator("MatMul", infer_matmul, matmul, relate_matmul, matmul_macs, inline=True),
    Operator("Gemm", infer_gemm, gemm, relate_gemm, gemm_macs, addends=(2,)),
    Operator("Einsum", infer_einsum, einsum, relate_einsum, einsum_macs, inline=True),
    Operator("Det", infer_det, det, relate_det, inline=True),
)

__all__ = [
    "Equation", "broadcast_to_matrix", "gemm", "gemm_macs", "infer_matmul", "matmul", "matmul_shape", "relate_matmul",
]  # fmt: skip
