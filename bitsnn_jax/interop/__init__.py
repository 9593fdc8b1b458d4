"""Networks in: PyTorch and ONNX."""
