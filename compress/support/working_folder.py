"""Keep Python from importing what lies in the folder the user happens to be in, which may be an unpacked download.

`python -m` puts that folder before all others: a file `json.py`, `torch.py` or `hydra_plugins/` there would run. It is
left out before anything else is imported, and comes back where the user names a package of it on the command line.
"""

import importlib.machinery  # nothing before the folder is left that Python has not loaded by itself: no `__future__`
import importlib.util
import os
import sys

__all__ = ["leave_working_folder", "trust_working_folder"]


def leave_working_folder() -> None:
    """Take away what `python -m` put first; a folder that PYTHONPATH names stays."""
    if sys.path and sys.path[0] == _here():  # not there with `python -P` and `-I`
        del sys.path[0]


def trust_working_folder(package: str) -> None:
    """Let Python import from the working folder if this package, which the user has named, is nowhere else but there.

    An installed package of the same name goes first: who names that one does not mean a folder that is called so, too.
    """
    folder = _here()
    if folder is None or folder in sys.path or package in sys.modules or importlib.util.find_spec(package) is not None:
        return
    if importlib.machinery.PathFinder.find_spec(package, [folder]) is not None:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()


def _here() -> str | None:
    """The working folder; None where it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109  pathlib is not imported yet
    except OSError:
        return None
