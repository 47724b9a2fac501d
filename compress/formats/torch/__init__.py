"""PyTorch: see `support`."""
