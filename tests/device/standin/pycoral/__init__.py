"""Stands in for Coral's `pycoral` where there is no Edge TPU; see `utils/edgetpu.py`."""
