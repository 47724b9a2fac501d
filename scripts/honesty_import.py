"""ONNX import: the standard's own node tests, one by one, against ONNX Runtime.

    python scripts/honesty_import.py [--json PATH] [--list]

Every test of `onnx.backend.test` that consists of operators in our import list is imported twice: with all of its
inputs computed at run time, and with all but the first stored in the file, as weights, axes and sizes are. An import is
right (the outputs are ONNX Runtime's, or the test's own where ONNX Runtime lacks the operator), or refused with the
name of the operator. What computes something else, or ends in any other exception, is a fault.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import torch
from bench_common import Bar, arguments, at_least, at_most, report
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from rich.console import Console

from compress.core.errors import ModelError
from compress.formats.onnx.importer import KNOWN_OPERATORS, onnx_to_module

Outcome = Literal["right", "refused", "wrong", "crashed"]
Arrays = tuple[np.ndarray, ...]
STANDARD = ("", "ai.onnx")
RIGHT = 1300
"""So many are right with onnx 1.23; fewer means that forms are refused which were read before."""
RTOL, ATOL = 1e-3, 1e-5
BFLOAT16_RTOL = 2**-6  # two units in the last of its 8 bits: each of several operators rounds on its own


@dataclass(frozen=True)
class Form:
    """One model to import, with what to feed it and what must come out.

    Attributes:
        name: of the test, and whether its later inputs are `computed` or `stored`.
        expected: outputs by ONNX Runtime, or the test's own.
    """

    name: str
    model: onnx.ModelProto
    feeds: Arrays
    expected: Arrays

    @property
    def operators(self) -> set[str]:
        return operators(self.model)


@dataclass(frozen=True)
class Verdict:
    """What became of a form; `detail` is the refusal, the difference or the exception."""

    name: str
    outcome: Outcome
    detail: str


def forms(*, one_of_each: bool = False) -> Iterator[Form]:
    """Both forms of every node test that consists of known operators, in order of name.

    Args:
        one_of_each: only the first test that is one node, of each operator.
    """
    before: set[str] = set()
    for case in _cases():
        if case.model is None or not case.data_sets or not operators(case.model) <= KNOWN_OPERATORS:
            continue
        kind = case.model.graph.node[0].op_type
        if one_of_each and (len(case.model.graph.node) > 1 or kind in before):
            continue
        before.add(kind)
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(value, np.ndarray | np.generic) for value in (*inputs, *outputs)):
            continue  # sequences, maps and absent values are no tensors
        feeds = tuple(np.asarray(value) for value in inputs)
        expected = _expected(case.model, feeds) or tuple(np.asarray(value) for value in outputs)
        yield Form(f"{case.name} computed", case.model, feeds, expected)
        if len(feeds) > 1:
            yield Form(f"{case.name} stored", _stored(case.model, feeds), feeds[:1], expected)


def judge(form: Form) -> Verdict:
    """Import a form and hold its outputs against the expected ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(form.model.SerializeToString())
        try:
            module = onnx_to_module(path)
        except ModelError as refusal:
            named = any(f"operator {kind}" in str(refusal) for kind in form.operators)
            return Verdict(form.name, "refused" if named else "crashed", str(refusal))
        except Exception as error:  # any exception but a refusal is the finding
            return Verdict(form.name, "crashed", f"importing: {type(error).__name__}: {error}")
    try:
        with torch.no_grad():
            outputs = module(*map(_tensor, form.feeds))
    except Exception as error:
        return Verdict(form.name, "crashed", f"running: {type(error).__name__}: {error}")
    got = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if len(got) != len(form.expected):
        return Verdict(form.name, "wrong", f"{len(got)} outputs, not {len(form.expected)}")
    difference = next(filter(None, itertools.starmap(_difference, zip(got, form.expected, strict=True))), None)
    return Verdict(form.name, "wrong" if difference else "right", difference or "")


def operators(model: onnx.ModelProto) -> set[str]:
    """Names of a graph's operators, as our list has them."""
    return {node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}" for node in model.graph.node}


def bars(verdicts: Sequence[Verdict]) -> list[Bar]:
    """The counts; nothing may be wrong or crash, and the list must not shrink to get there."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return [
        at_least("node tests of known operators, right", counts["right"], RIGHT, "forms"),
        Bar("node tests of known operators, refused by name", counts["refused"], "forms", "reported", True),
        at_most("node tests of known operators, wrong", counts["wrong"], 0, "forms"),
        at_most("node tests of known operators, another exception", counts["crashed"], 0, "forms"),
    ]


def _cases() -> list[TestCase]:
    return sorted(load_model_tests(kind="node"), key=lambda case: str(case.name))


def _expected(model: onnx.ModelProto, feeds: Arrays) -> Arrays | None:
    """Outputs by ONNX Runtime without its optimizations; None where it cannot run the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        return tuple(np.asarray(value) for value in session.run(None, dict(zip(names, feeds, strict=True))))
    except Exception:  # onnxruntime's errors share no public base class
        return None


def _stored(model: onnx.ModelProto, feeds: Arrays) -> onnx.ModelProto:
    """The model with all but its first input stored in the file."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    later = list(copy.graph.input)[1:]
    del copy.graph.input[1:]
    copy.graph.initializer.extend(
        numpy_helper.from_array(feed, value.name) for feed, value in zip(feeds[1:], later, strict=True)
    )
    return copy


def _tensor(values: np.ndarray) -> torch.Tensor:
    if values.dtype == ml_dtypes.bfloat16:  # torch takes NumPy's own types only
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(values.copy())


def _difference(got: object, expected: np.ndarray) -> str | None:
    if not isinstance(got, torch.Tensor):
        return f"no tensor but {type(got).__name__}"
    rtol = RTOL
    if got.dtype is torch.bfloat16 and expected.dtype == ml_dtypes.bfloat16:
        got, expected, rtol = got.float(), expected.astype(np.float32), BFLOAT16_RTOL
    values = got.detach().numpy()
    if values.shape != expected.shape:
        return f"shape {list(values.shape)}, not {list(expected.shape)}"
    if values.dtype != expected.dtype:
        return f"{values.dtype}, not {expected.dtype}"
    if values.dtype == bool:
        return None if np.array_equal(values, expected) else "other truth values"
    if np.allclose(values, expected, rtol, ATOL, equal_nan=True):
        return None
    return f"largest difference {np.nanmax(np.abs(values.astype(np.float64) - expected.astype(np.float64))):.3g}"


def main() -> None:
    parser = arguments("ONNX import against the standard's node tests")
    parser.add_argument("--list", action="store_true", help="also print every refusal and fault")
    options = parser.parse_args()
    verdicts = [judge(form) for form in forms()]
    console = Console()
    for verdict in verdicts:
        if verdict.outcome in ("wrong", "crashed") or (options.list and verdict.outcome == "refused"):
            console.print(f"{verdict.outcome}: {verdict.name}: {verdict.detail}", markup=False, highlight=False)
    report(bars(verdicts), options.json)


if __name__ == "__main__":
    main()
