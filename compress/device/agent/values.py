"""Types of what the agent hands around, and the one error it raises."""

from typing import TYPE_CHECKING, Any, Dict, Optional

Json = Dict[str, Any]  # what json reads and writes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = Any


class Problem(Exception):
    """One line for the user; `code` is the exit code: 1 a model failed, 2 cannot be used as asked."""

    def __init__(self, text: str, fix: Optional[str] = None, code: int = 1) -> None:
        Exception.__init__(self, "%s | fix: %s" % (text, fix) if fix else text)
        self.code = code
