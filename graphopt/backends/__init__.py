"""From a graph out to torch and to ONNX."""
