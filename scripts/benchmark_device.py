#!/usr/bin/env python3
"""Measure a bundle on a device over SSH: `scripts/benchmark_device.py pi@raspberrypi --bundle FOLDER`.

The same as `python -m compress.device bench`, from a checkout that is not installed. On the device itself, run the
bundle's own benchmark.py instead: it needs nothing of this project.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.device.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
