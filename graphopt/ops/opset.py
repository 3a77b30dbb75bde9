"""The one opset inside."""

#: Every graph in memory follows this version of ONNX's standard operators; loading upgrades, saving downgrades.
#: Opsets 27 and 28 only added operators, element types and attributes with neutral defaults: what they define is
#: understood as well, and saving finds out that it needs them. ONNX Runtime 1.32 has few kernels for them yet.
CANONICAL_OPSET = 26
