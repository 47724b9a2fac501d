"""TFLite: see `support`."""
