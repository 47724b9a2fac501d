"""Model compression pipeline for edge devices: prune, quantize, export, measure.

Importing this package is cheap on purpose: torch and the runtimes are imported where they are used.
"""

import os
import sys

__version__ = "0.1.0"

# `python -m compress...` or the script that `pip` makes: the first lines of ours that run
if os.path.basename(sys.argv[0] if sys.argv else "") in ("-m", "edge-compress"):  # noqa: PTH119
    from compress.working_folder import leave_working_folder

    leave_working_folder()

    from compress.signals import end_at_once_on_ctrl_c

    end_at_once_on_ctrl_c()
