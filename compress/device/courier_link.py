"""Requests to a courier (`agent/courier.py`) over a channel: one JSON line each way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from compress.core.errors import DeviceError
from compress.device.transport import LONGEST_LINE, Channel, ConnectionLost, Transport
from compress.results.bundle import BundleFile
from compress.support.plain_json import NotJson, parse_json

__all__ = ["CourierLink"]

Request = Mapping[str, JsonValue]
T = TypeVar("T")

_PROTOCOL = 1
_LARGEST_RESULT_BYTES = 8 << 20  # thousands of rows
_ANSWER_SECONDS = 60.0  # a board that swaps takes seconds for what takes others none
_SETUP_SECONDS = 1800.0  # pip over a slow line, and building what has no wheel
_SLOWEST_LINE = 16 << 10  # bytes per second: below that nobody copies a network
_SLOWEST_HASH = 2 << 20  # bytes per second: the oldest boards' cards and SHA-256


class CourierLink:
    """An open line to one device; every method is one request.

    Raises (all methods):
        ConnectionLost: the line broke, or there was no answer in time.
        DeviceError: the device says no, and why.
    """

    def __init__(self, transport: Transport) -> None:
        self.device = transport.name
        self._channel: Channel = transport.open()

    def __enter__(self) -> CourierLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def hello(self) -> dict[str, JsonValue]:
        """Python, architecture and free space of the device."""
        answer = self._ask({"do": "hello"})
        if answer.get("protocol") != _PROTOCOL:
            raise DeviceError(f"{self.device} speaks another protocol", fix="use the same release everywhere")
        return answer

    def have(self, digest: str, files: Sequence[BundleFile]) -> dict[str, int]:
        """Bytes of each file that the device has already."""
        request: Request = {"do": "have", "digest": digest, "files": [asdict(file) for file in files]}
        seconds = _ANSWER_SECONDS + sum(file.size_bytes for file in files) / _SLOWEST_HASH
        sizes = _typed(self._ask(request, seconds=seconds), "sizes", dict[str, int])
        wrong = [file.path for file in files if not 0 <= sizes.get(file.path, 0) <= file.size_bytes]
        if wrong:
            raise DeviceError(f"{self.device} says it has {sizes[wrong[0]]} bytes of {wrong[0]}")
        return sizes

    def put(self, digest: str, file: BundleFile, offset: int, content: bytes) -> None:
        """Append bytes to a file."""
        seconds = _ANSWER_SECONDS + len(content) / _SLOWEST_LINE + file.size_bytes / _SLOWEST_HASH
        request: Request = {**asdict(file), "do": "put", "digest": digest, "offset": offset, "size": len(content)}
        self._ask(request, content, seconds=seconds)

    def setup(self, digest: str, modules: Sequence[str]) -> tuple[str, str]:
        """An interpreter on the device that can import `modules`, and how it was come by."""
        answer = self._ask({"do": "setup", "digest": digest, "modules": list(modules)}, seconds=_SETUP_SECONDS)
        return _typed(answer, "python", str), _typed(answer, "how", str)

    def start(self, digest: str, run: str, python: str, arguments: Sequence[str]) -> str:
        """Start the benchmark: `started`, `running` (was started before), `done`, or `busy` with another one."""
        request: Request = {"do": "start", "digest": digest, "run": run, "python": python, "arguments": list(arguments)}
        return _typed(self._ask(request), "state", str)

    def poll(self, run: str, offset: int) -> tuple[str, str, int]:
        """`running`, `done` or `died`, what was printed from `offset` on, and the next offset."""
        answer = self._ask({"do": "poll", "run": run, "offset": offset})
        return _typed(answer, "state", str), _typed(answer, "text", str), _typed(answer, "offset", int)

    def fetch(self, run: str) -> bytes:
        """The result, whole."""
        answer = self._ask({"do": "fetch", "run": run})
        size = _typed(answer, "size", int)
        if not 0 <= size <= _LARGEST_RESULT_BYTES:
            raise DeviceError(f"{self.device} announces a result of {size} bytes")
        content = self._channel.read(size, _ANSWER_SECONDS + size / _SLOWEST_LINE)
        if len(content) != size:
            raise ConnectionLost("the courier is gone")
        if hashlib.sha256(content).hexdigest() != answer.get("sha256"):  # ssh has its own sums: the line is sound
            raise DeviceError(f"{self.device}: the result arrived damaged", fix="run the same command again")
        return content

    def forget(self, run: str) -> None:
        """Let the device remove what this run left."""
        self._ask({"do": "forget", "run": run})

    def _ask(self, request: Request, content: bytes = b"", *, seconds: float | None = None) -> dict[str, JsonValue]:
        line = self._channel.ask(json.dumps(request).encode() + b"\n" + content, seconds or _ANSWER_SECONDS)
        if len(line) >= LONGEST_LINE:
            raise DeviceError(f"{self.device} answers with a line of more than {LONGEST_LINE >> 20} MiB")
        if not line.endswith(b"\n"):
            raise ConnectionLost("the courier is gone")
        try:
            answer = TypeAdapter(dict[str, dict[str, JsonValue] | str]).validate_python(parse_json(line))
        except (NotJson, ValidationError) as error:
            raise DeviceError(f"{self.device} answers with something else than the courier does") from error
        granted = answer.get("ok")
        if isinstance(granted, dict):
            return granted
        raise DeviceError(f"{self.device}: {answer.get('error')}", fix=str(answer.get("fix") or "") or None)


def _typed(answer: Mapping[str, JsonValue], key: str, kind: type[T]) -> T:
    try:
        value: T = TypeAdapter(kind).validate_python(answer.get(key))
    except ValidationError as error:
        raise DeviceError(f"the courier's answer has no usable {key!r}") from error
    return value
