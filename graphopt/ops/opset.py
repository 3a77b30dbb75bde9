"""The one opset inside."""

#: Every graph in memory follows this version of ONNX's standard operators; loading upgrades, saving downgrades.
CANONICAL_OPSET = 26
