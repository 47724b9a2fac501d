"""ONNX: see `support`."""
