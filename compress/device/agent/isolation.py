"""Run something in a process of its own: its memory is its own, and its crash is an answer."""

import json
import os
import signal
import sys
import traceback
from typing import Any, Callable

from .values import Json, Problem


def isolated(function: Callable[[], object]) -> Any:
    """Run `function` in a forked child and return its JSON-able value; a crash becomes a `Problem`.

    A fork and not a new program: it needs no second start of the interpreter, which matters on small devices.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as stream:
                stream.write(json.dumps(answer(function)).encode("utf-8"))
            code = 0
        finally:
            os._exit(code)  # whatever happens, Ctrl-C too: what the parent does next is not done twice
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as stream:
            content = stream.read()
    finally:
        status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        raise Problem(crash(os.WTERMSIG(status)), "install the versions in requirements.txt")
    if not content:
        raise Problem("the runtime ended the process, with exit code %d" % os.WEXITSTATUS(status))
    value = json.loads(content.decode("utf-8"))
    if "problem" in value:
        raise Problem(value["problem"])
    return value["value"]


def answer(function: Callable[[], object]) -> Json:
    try:
        return {"value": function()}
    except Problem as error:
        return {"problem": str(error)}
    except MemoryError:
        return {"problem": "this device has too little memory for the model"}
    except Exception as error:  # whatever a runtime throws ends this model, not the benchmark
        traceback.print_exc()
        return {"problem": "%s: %s" % (type(error).__name__, (str(error).strip().splitlines() or [""])[0])}


def crash(number: int) -> str:
    reasons = {
        int(signal.SIGILL): "SIGILL: the installed runtime uses instructions this CPU does not have",
        int(signal.SIGKILL): "SIGKILL: most likely too little memory",
    }
    return "the runtime died of " + reasons.get(number, "signal %d" % number)
