"""TensorRT: see `support`."""
