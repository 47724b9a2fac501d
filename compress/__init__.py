"""Model compression pipeline for edge devices: prune, quantize, export, measure.

Importing this package is cheap on purpose: torch and the runtimes are imported where they are used.
"""

import sys as _sys

if _sys.argv[:1] == ["-m"] and _sys.path and not getattr(_sys.flags, "safe_path", False):
    # `python -m` looks for every module in the working folder first. That may be an unpacked download, and a file
    # `json.py` in it would be run. Networks of the user's own are still found there, after all libraries.
    _sys.path.append(_sys.path.pop(0))

__version__ = "0.1.0"
