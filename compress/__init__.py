"""Model compression pipeline for edge devices: prune, quantize, export, measure.

Importing this package is cheap on purpose: torch and the runtimes are imported where they are used.
"""

__version__ = "0.1.0"
