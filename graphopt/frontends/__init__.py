"""From torch and from ONNX into a graph."""
