"""What every format can be asked, and the one way for an answer to be absent: with a reason."""

from __future__ import annotations

__all__ = ["NotMeasured"]


class NotMeasured(Exception):  # not an error of the run: the row shows a dash and this reason
    """A quantity that cannot be measured on this artifact; the message is the reason shown to the user."""
