"""TorchScript: see `support`."""
