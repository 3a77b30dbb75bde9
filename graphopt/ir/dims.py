"""Dimensions: what a tensor's extent along one axis may be.

A dimension is an ``int`` when it is known, a sympy expression when it depends on named sizes (``batch``, ``2*seq``),
and ``None`` when nothing is known about it. sympy is imported only when the first symbolic dimension appears, because
most graphs have none and importing it takes as long as loading a small model.
"""

from __future__ import annotations

import ast
import itertools
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    import sympy

Dim: TypeAlias = Union[int, "sympy.Expr", None]
Shape: TypeAlias = tuple[Dim, ...]


def symbol(name: str) -> sympy.Expr:
    """Returns the symbolic dimension called `name`: a non-negative integer."""
    import sympy

    return sympy.Symbol(name, integer=True, nonnegative=True)


_UNNAMED = "?"


def unnamed(taken: Iterable[str] = ()) -> Iterator[sympy.Expr]:
    """Symbols for sizes that nobody has named (``?0``, ``?1``, ...), so that it shows where they are the same.

    Files do not get to see them. Those whose names are `taken` are left out.
    """
    known = set(taken)
    return (symbol(name) for name in map(f"{_UNNAMED}{{}}".format, itertools.count()) if name not in known)


def is_unnamed(dim: Dim) -> bool:
    """True for an expression in sizes some of which nobody has named."""
    return any(name.startswith(_UNNAMED) for name in free_names(dim))


def normalise(dim: Any) -> Dim:
    """Turns an int-like, a name, a sympy expression or ``None`` into a canonical `Dim`.

    Integer-valued expressions become ``int`` so that ``dim == 4`` and ``isinstance(dim, int)`` can be trusted.
    Raises ValueError for a number that is not whole.
    """
    if dim is None or type(dim) is int:
        return dim
    if isinstance(dim, str):
        return parse_dim(dim)
    if not getattr(dim, "is_Integer", False) and hasattr(dim, "free_symbols"):
        return dim
    number = int(dim)
    if number != dim:
        raise ValueError(f"a dimension must be a whole number, not {dim}")
    return number


def is_symbolic(dim: Dim) -> bool:
    """True for an expression in named sizes; False for known and for unknown dimensions."""
    return dim is not None and not isinstance(dim, int)


def is_static(shape: Iterable[Dim] | None) -> bool:
    """True when the rank and every dimension are known integers."""
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements that `dims` span; ``None`` when one of them is unknown (and none is zero)."""
    total: Dim = 1
    unknown = False
    for dim in dims:
        if isinstance(dim, int) and isinstance(total, int):
            total *= dim
        elif dim is None:
            unknown = True
        else:
            total = mul(total, dim)
    if unknown and total != 0:
        return None
    return total


def floor_div(a: Dim, b: Dim) -> Dim:
    """``a // b``; exact quotients of expressions simplify (``(4*n) // 4`` is ``n``)."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    import sympy

    quotient = _quotient(a, b)
    return normalise(quotient if quotient.is_integer else sympy.floor(quotient))


def ceil_div(a: Dim, b: Dim) -> Dim:
    """``-(-a // b)``."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b)
    import sympy

    quotient = _quotient(a, b)
    return normalise(quotient if quotient.is_integer else sympy.ceiling(quotient))


def _quotient(a: int | sympy.Expr, b: int | sympy.Expr) -> Any:
    """``a / b`` without a common factor."""
    import sympy

    if b == 1:
        return sympy.sympify(a)
    if isinstance(b, int) and b:
        # A number divides term by term; cancelling polynomials is a hundred times as slow.
        return (a * sympy.Rational(1, b)).expand(deep=False)
    return sympy.cancel(sympy.sympify(a) / sympy.sympify(b))


def add(*terms: Dim) -> Dim:
    """The sum; unknown when a term is unknown."""
    total: Any = 0
    for term in terms:
        if term is None:
            return None
        total = total + term
    return normalise(total)


def mul(a: Dim, b: Dim) -> Dim:
    """The product of two dimensions; unknown when one is unknown."""
    return None if a is None or b is None else normalise(a * b)


def same(a: Dim, b: Dim) -> bool:
    """True when both are known to be equal (two unknown dimensions are not)."""
    if a is None or b is None:
        return False
    if isinstance(a, int) or isinstance(b, int):
        return bool(a == b)
    return bool(a == b or (a - b).expand() == 0)


def substitute(dim: Dim, binding: Mapping[str, int]) -> Dim:
    """Replaces named sizes by the numbers in `binding`."""
    if dim is None or isinstance(dim, int):
        return dim
    return normalise(dim.subs({s: binding[s.name] for s in dim.free_symbols if s.name in binding}))


def free_names(dim: Dim) -> set[str]:
    """The names of the sizes that `dim` depends on."""
    if dim is None or isinstance(dim, int):
        return set()
    return {str(s) for s in dim.free_symbols}


def format_dim(dim: Dim) -> str:
    """Text of a dimension, read back by `parse_dim`; names that are no identifiers are quoted."""
    if dim is None:
        return "?"
    if isinstance(dim, int):
        return str(dim)
    odd = {s: _quoted(str(s)) for s in dim.free_symbols if not _is_plain(str(s))}
    if not odd:
        return str(dim)
    if dim.is_Symbol:
        return odd[dim]
    import sympy

    return str(dim.subs({s: sympy.Symbol(text) for s, text in odd.items()}))


def _is_plain(name: str) -> bool:
    # Python's parser folds letters outside ASCII and refuses keywords.
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _quoted(name: str) -> str:
    return '"' + name.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def parse_dim(text: str) -> Dim:
    """Reads what `format_dim` writes, and any ONNX ``dim_param``.

    Only arithmetic over names is read (never Python's or sympy's ``eval``); any other text is taken as a name.
    A negative number, which some exporters write, says that the dimension is unknown.
    """
    if text == "?" or not text:
        return None
    if text.isidentifier():
        return symbol(text)
    try:
        dim = normalise(_evaluate(ast.parse(text, mode="eval").body))
    except (ArithmeticError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return symbol(text)
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return dim


def _functions() -> dict[str, Callable[..., Any]]:
    import sympy

    return {
        "floor": sympy.floor,
        "ceiling": sympy.ceiling,
        "Max": sympy.Max,
        "Min": sympy.Min,
        "Mod": sympy.Mod,
        "FloorDiv": lambda a, b: floor_div(a, b),
    }


# A number beyond this is no extent; a tower of powers would take forever to compute.
_MAX_BITS = 128

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: floor_div,
    ast.Mod: lambda a, b: a % b,
}


def _infinities() -> tuple[Any, ...]:
    import sympy

    return sympy.zoo, sympy.nan, sympy.oo, -sympy.oo


def _evaluate(tree: ast.expr) -> Any:
    result = _evaluate_node(tree)
    if result.is_Integer and result.p.bit_length() > _MAX_BITS:
        raise ValueError("too large for a dimension")
    if result.is_infinite or (result.is_finite is None and result.has(*_infinities())):
        raise ValueError("division by zero")
    return result


def _evaluate_node(tree: ast.expr) -> Any:
    import sympy

    match tree:
        case ast.Constant(value=int(number)):
            return sympy.Integer(number)
        case ast.Constant(value=str(name)):
            return symbol(name)
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _evaluate(left) / _evaluate(right)
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))) if 0 <= power <= 16:
            return _evaluate(left) ** power
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            return _BINARY[type(operator)](_evaluate(left), _evaluate(right))
        case ast.Call(func=ast.Name(id=name), args=args) if name in _functions():
            return _functions()[name](*map(_evaluate, args))
    raise ValueError(f"not arithmetic: {ast.dump(tree)}")
