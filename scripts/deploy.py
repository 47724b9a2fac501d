#!/usr/bin/env python3
"""Copy a bundle to a device and prepare its runtime: `scripts/deploy.py pi@raspberrypi --bundle FOLDER`.

The same as `python -m compress.device deploy`, from a checkout that is not installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.device.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["deploy", *sys.argv[1:]]))
