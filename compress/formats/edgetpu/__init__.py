"""Edge TPU: see `support`."""
