#!/usr/bin/env python3
"""The host's hands on a device: takes files, prepares an environment, runs the bundle's benchmark, gives the result.

Started over SSH as `python3 courier.py`; reads requests from standard input, one JSON object a line (`put` is followed
by raw bytes), and answers each with one JSON line (`fetch` is followed by raw bytes). Nothing from a request becomes
part of a shell command, and every path is checked again here.

Everything can be asked again: files that are whole stay, a benchmark that runs is not started twice (it holds a lock
for as long as it lives, whatever becomes of this process), so after a lost connection the host simply starts over.

Standard library only, Python 3.6 or later.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any, Callable, Dict, IO, List, Optional

PROTOCOL = 1
KEEP_BUNDLES = 3
MARGIN_BYTES = 16 << 20  # left free: logs, results and what the system itself writes
CHUNK = 1 << 20
KEPT_BYTES = 4 << 10  # of what a program prints: its last line says what is wrong

Json = Dict[str, Any]
ROOT = os.path.join(os.path.expanduser("~"), ".cache", "edge-compress")


class Refused(Exception):
    """Refusal that says what is wrong, and what to do about it."""

    def __init__(self, problem: str, fix: str) -> None:
        Exception.__init__(self, problem)
        self.fix = fix


# --- places -----------------------------------------------------------------------------------------------------------


def checked(value: object, pattern: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):  # `$` would take a line's end along
        raise Refused("%r is not of the form %s" % (value, pattern), "use the same release on the host")
    return value


def bundle_folder(request: Json) -> str:
    return os.path.join(ROOT, "bundles", checked(request["digest"], "[0-9a-f]{64}"))


def run_folder(request: Json) -> str:
    return os.path.join(ROOT, "runs", checked(request["run"], "[0-9a-f]{32}"))


def file_path(request: Json, record: Json) -> str:
    """Plain names only: a bundle is flat but for the agent's own folders."""
    folders = "(agent/(runners/|builder/)?)?"
    return os.path.join(bundle_folder(request), checked(record["path"], folders + "[A-Za-z0-9_][A-Za-z0-9._-]*"))


# --- requests: each takes the request and returns the answer ----------------------------------------------------------


def hello(request: Json) -> Json:
    os.makedirs(ROOT, mode=0o700, exist_ok=True)
    return {
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "architecture": platform.machine(),
        "free_bytes": shutil.disk_usage(ROOT).free,
        "host": platform.node(),
    }


def have(request: Json) -> Json:
    """Number of bytes of each file that are here already; refuses when the rest does not fit."""
    folder = bundle_folder(request)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.utime(folder, None)
    forget_old_bundles(folder)
    sizes = {record["path"]: present(request, record) for record in request["files"]}
    missing = sum(record["size_bytes"] - sizes[record["path"]] for record in request["files"])
    free = shutil.disk_usage(folder).free
    if missing and missing + MARGIN_BYTES > free:
        raise no_space(missing + MARGIN_BYTES, free)
    return {"sizes": sizes}


def present(request: Json, record: Json) -> int:
    """The whole size of a file that is whole, the bytes of a part, or 0."""
    path = file_path(request, record)
    if os.path.exists(path):
        if sha256(path) == record["sha256"]:
            return int(record["size_bytes"])
        os.unlink(path)
    part = path + ".part"
    size = os.path.getsize(part) if os.path.exists(part) else 0
    if size >= record["size_bytes"]:
        os.unlink(part)
        size = 0
    return size


def put(request: Json) -> Json:
    """Append the bytes that follow to a file; with the last ones it is checked and gets its name."""
    path = file_path(request, request)
    content = sys.stdin.buffer.read(int(request["size"]))
    if len(content) < request["size"]:
        sys.exit(0)  # the connection is gone
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path + ".part", "r+b" if request["offset"] else "wb") as stream:
            stream.seek(request["offset"])
            stream.truncate()
            stream.write(content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(request["size"], shutil.disk_usage(ROOT).free)
        raise
    if request["offset"] + request["size"] < request["size_bytes"]:
        return {}
    if sha256(path + ".part") != request["sha256"]:
        os.unlink(path + ".part")
        raise Refused("%s arrived damaged" % request["path"], "run the same command again")
    os.rename(path + ".part", path)
    return {}


def no_space(needed: int, free: int) -> Refused:
    text = "%.1f MiB are needed in %s and %.1f MiB are free"
    fix = "free some space there, for example: rm -r ~/.cache/edge-compress/bundles"
    return Refused(text % (needed / 2.0**20, ROOT, free / 2.0**20), fix)


def forget_old_bundles(current: str) -> None:
    parent = os.path.dirname(current)
    folders = sorted((os.path.join(parent, name) for name in os.listdir(parent)), key=os.path.getmtime)
    for folder in folders[:-KEEP_BUNDLES]:
        if folder != current:
            shutil.rmtree(folder, ignore_errors=True)


def setup(request: Json) -> Json:
    """An interpreter that has the runtimes: the one that is there, or a virtual environment with the requirements."""
    modules = [checked(name, "[a-z_][a-z0-9_.|]*") for name in request["modules"]]
    os.makedirs(ROOT, mode=0o700, exist_ok=True)
    os.chdir(ROOT)  # `python -c` and `-m` import from the folder they are started in, which may be anybody's
    if imports(sys.executable, modules) is None:
        return {"python": sys.executable, "how": "what is there"}
    requirements = os.path.join(bundle_folder(request), "requirements.txt")
    environment = os.path.join(ROOT, "venvs", sha256(requirements)[:16])
    python = os.path.join(environment, "bin", "python")
    if os.path.exists(python) and imports(python, modules) is None:
        return {"python": python, "how": "the virtual environment of an earlier run"}
    packages = [line for line in open(requirements).read().split("\n") if line and not line.startswith("#")]
    if not packages:
        wrong = imports(sys.executable, modules)
        raise Refused("%s: %s" % (sys.executable, wrong), "install the runtime that comes with the device's system")
    install(environment, python, requirements)
    wrong = imports(python, modules)
    if wrong is not None:
        fix = "%s -m pip install -r %s" % (python, requirements)
        raise Refused("%s after installing the requirements: %s" % (environment, wrong), fix)
    return {"python": python, "how": "a new virtual environment"}


def imports(python: str, modules: List[str]) -> Optional[str]:
    """Say why `python` cannot import them (`a|b` means either); None if it can."""
    for names in modules:
        errors = [tool(python, "-c", "import " + name) for name in names.split("|")]
        if all(errors):
            return errors[0]
    return None


def install(environment: str, python: str, requirements: str) -> None:
    shutil.rmtree(environment, ignore_errors=True)
    wrong = tool(sys.executable, "-m", "venv", environment)
    if wrong is not None:
        shutil.rmtree(environment, ignore_errors=True)
        raise Refused("no virtual environment can be made: %s" % wrong, "sudo apt install python3-venv")
    # Debian 10's pip is too old to find the wheels (PEP 599); where a newer one cannot be had, the old one may do.
    tool(python, "-m", "pip", "install", "--quiet", "--no-input", "--upgrade", "pip")
    wrong = tool(python, "-m", "pip", "install", "--quiet", "--no-input", "-r", requirements)
    if wrong is not None:
        shutil.rmtree(environment, ignore_errors=True)
        fix = "on the device: python3 -m venv venv && venv/bin/python -m pip install -r " + requirements
        raise Refused("pip cannot install the runtime here: %s" % wrong, fix)


def tool(*command: str) -> Optional[str]:
    """Run a program; its last line of complaint, None when all went well. Only the end of what it prints is kept."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    end = b""
    with process.stdout as stream:
        for content in iter(lambda: stream.read(CHUNK), b""):
            end = (end + content)[-KEPT_BYTES:]
    if process.wait() == 0:
        return None
    lines = end.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "%s ends with %d" % (command[0], process.returncode)


def start(request: Json) -> Json:
    """Start the benchmark in a session of its own, so that it outlives the connection; once."""
    folder = run_folder(request)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if finished(folder):
        return {"state": "done"}
    descriptor = os.open(os.path.join(ROOT, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(descriptor, 64).decode("ascii", "replace")
        os.close(descriptor)
        return {"state": "running" if owner == request["run"] else "busy"}
    os.truncate(descriptor, 0)
    os.write(descriptor, request["run"].encode("ascii"))
    bundle = bundle_folder(request)
    command = [request["python"], os.path.join(bundle, "benchmark.py"), "--resume"]
    command += ["--json", os.path.join(folder, "result.json")] + [str(value) for value in request["arguments"]]
    with open(os.path.join(folder, "log.txt"), "wb") as log:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=bundle,
            start_new_session=True,
            pass_fds=[descriptor],  # the lock lives as long as the last process that holds it
        )
    os.close(descriptor)
    return {"state": "started"}


def poll(request: Json) -> Json:
    """Tell whether the benchmark runs, is done or died, and what it printed from `offset` on."""
    folder = run_folder(request)
    state = "running" if locked() else "done" if finished(folder) else "died"
    try:
        with open(os.path.join(folder, "log.txt"), "rb") as log:
            log.seek(request["offset"])
            text = log.read(CHUNK)
    except OSError:
        text = b""
    return {"state": state, "text": text.decode("utf-8", "replace"), "offset": request["offset"] + len(text)}


def locked() -> bool:
    try:
        descriptor = os.open(os.path.join(ROOT, "lock"), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def finished(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "result.json")) as stream:
            return bool(json.load(stream)["finished"])
    except (OSError, ValueError, KeyError):
        return False


def fetch(request: Json) -> Json:
    with open(os.path.join(run_folder(request), "result.json"), "rb") as stream:
        content = stream.read()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "content": content}


def forget(request: Json) -> Json:
    """Remove what this run left; the bundle stays for the next one."""
    shutil.rmtree(run_folder(request), ignore_errors=True)
    return {}


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


# --- the loop ---------------------------------------------------------------------------------------------------------

REQUESTS: Dict[str, Callable[[Json], Json]] = {
    "hello": hello,
    "have": have,
    "put": put,
    "setup": setup,
    "start": start,
    "poll": poll,
    "fetch": fetch,
    "forget": forget,
}


def respond(line: bytes) -> Json:
    try:
        request = json.loads(line.decode("utf-8"))
        return {"ok": REQUESTS[request["do"]](request)}
    except Refused as error:
        return {"error": str(error), "fix": error.fix}
    except OSError as error:
        return {"error": "%s: %s" % (error.filename, error.strerror), "fix": "look at that file on the device"}
    except (ValueError, KeyError, TypeError) as error:
        return {"error": "a request this courier does not understand: %r" % error, "fix": "use one release"}


def write(stream: IO[bytes], answer: Json) -> None:
    content = answer.get("ok", {}).pop("content", b"")
    stream.write(json.dumps(answer).encode("utf-8") + b"\n" + content)
    stream.flush()


def main() -> None:
    for line in iter(sys.stdin.buffer.readline, b""):
        write(sys.stdout.buffer, respond(line))


if __name__ == "__main__":
    main()
