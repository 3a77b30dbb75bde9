"""The intermediate representation: graphs, nodes, values, types and symbolic dimensions."""

from graphopt.ir.dims import Dim, Shape
from graphopt.ir.equal import difference, equal
from graphopt.ir.graph import Graph, captured
from graphopt.ir.journal import Journal
from graphopt.ir.node import Attribute, Attributes, Node, Origin
from graphopt.ir.signature import Leaf, ModelInfo, Signature
from graphopt.ir.text import parse, print_graph, read_text, write_text
from graphopt.ir.types import UNKNOWN, DType, MapType, OptionalType, SequenceType, TensorType, ValueType
from graphopt.ir.value import Known, Parameter, Use, Value
from graphopt.ir.verify import verify
from graphopt.ir.view import to_networkx

__all__ = [
    "UNKNOWN", "Attribute", "Attributes", "DType", "Dim", "Graph", "Journal", "Known", "Leaf", "MapType", "ModelInfo",
    "Node", "OptionalType", "Origin", "Parameter", "SequenceType", "Shape", "Signature", "TensorType", "Use", "Value",
    "ValueType", "captured", "difference", "equal", "parse", "print_graph", "read_text", "to_networkx", "verify",
    "write_text",
]  # fmt: skip
