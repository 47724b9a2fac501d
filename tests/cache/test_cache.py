"""The stage store is listed, verified and kept within its limit, and nothing that is in use leaves it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from doubles import ROOT, Log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress.cache.__main__ import main
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.pipeline.run import _in_one_file, _trim
from compress.pipeline.store import StageStore
from compress.pipeline.store_size import Trimmed, hold, stored, trim

INPUT = InputSpec((3, 4, 4))


def filled(root: Path, **sizes: int) -> None:
    """A store with an entry of so many bytes for each name, used an hour apart, the first longest ago."""
    store = StageStore(root)
    for key, size in sizes.items():
        path = store.folder(key) / "to_onnx.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
        store.save(key, Artifact(Format.ONNX, path, Precision.INT8, INPUT, False, ("a", "b")), 0.1, 1, source=None)
    del store
    gc.collect()
    now = time.time()
    for place, key in enumerate(sizes):
        for path in [*(root / key).iterdir(), root / ".in-use" / key]:
            os.utime(path, (now, now - 3600 * (len(sizes) - place)))


def keys(root: Path) -> list[str]:
    return [entry.key for entry in stored(root)]


def test_the_least_recently_used_leave_first(tmp_path):
    filled(tmp_path, a=5000, b=5000, c=5000)
    assert keys(tmp_path) == ["a", "b", "c"]
    store = StageStore(tmp_path)
    assert store.find("a") is not None  # which is a use
    assert keys(tmp_path) == ["b", "c", "a"]
    sizes = {entry.key: entry.size_bytes for entry in stored(tmp_path)}
    assert store.enforce(2 * sizes["a"]) == Trimmed(1, sizes["b"], 2 * sizes["a"])
    assert keys(tmp_path) == ["c", "a"]
    assert not list(tmp_path.glob(".tmp-*"))
    assert sorted(path.name for path in (tmp_path / ".in-use").iterdir()) == ["a", "c"]


def test_what_a_run_uses_stays(tmp_path):
    filled(tmp_path, a=5000, b=5000)
    using = StageStore(tmp_path)
    assert using.find("a") is not None
    done = StageStore(tmp_path).enforce(0)
    assert (done.removed, done.in_use) == (1, 1)
    assert using.load("a", source=None).path.stat().st_size == 5000
    del using
    gc.collect()
    assert trim(tmp_path, most_bytes=0).removed == 1
    assert keys(tmp_path) == []


def test_another_process_that_uses_an_entry_keeps_it(tmp_path):
    filled(tmp_path, a=10)
    script = (
        "import sys; from pathlib import Path; from compress.pipeline.store_size import hold\n"
        "hold(Path(sys.argv[1]), 'a'); print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert trim(tmp_path, most_bytes=0) == Trimmed(0, 0, stored(tmp_path)[0].size_bytes, in_use=1)
        other.kill()
    assert trim(tmp_path, most_bytes=0).removed == 1


def test_an_entry_can_be_made_again_after_it_was_removed(tmp_path):
    filled(tmp_path, a=10)
    trim(tmp_path, most_bytes=0)
    assert StageStore(tmp_path).find("a") is None
    filled(tmp_path, a=20)
    assert StageStore(tmp_path).load("a", source=None).path.stat().st_size == 20


# each example writes and synchronises up to six entries: few examples, as the disk is what takes the time
@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=6), st.integers(0, 200_000), st.sets(st.integers(0, 5)))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_limit_holds_or_all_that_is_left_over_it_is_in_use(tmp_path_factory, sizes, limit, used):
    root = tmp_path_factory.mktemp("store")
    filled(root, **{f"k{place}": size for place, size in enumerate(sizes)})
    held = [hold(root, f"k{place}") for place in used if place < len(sizes)]
    before = {entry.key: entry.size_bytes for entry in stored(root)}
    done = trim(root, most_bytes=limit)
    left = keys(root)
    assert {f"k{place}" for place in used if place < len(sizes)} <= set(left)
    assert done.left_bytes == sum(before[key] for key in left) == sum(before.values()) - done.removed_bytes
    assert done.left_bytes <= limit or len(left) == len(held)
    for descriptor in held:
        os.close(descriptor)


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_lists_verifies_and_prunes(tmp_path, capsys):
    filled(tmp_path / ".cache" / "stages", a=5000, b=5000, c=5000)
    code, out, _ = command(capsys, tmp_path)
    assert (code, out.count("b, int8 onnx"), out.splitlines()[-1][:9]) == (0, 3, "3 entries")
    (tmp_path / ".cache/stages/b/to_onnx.onnx").write_bytes(b"else")
    code, out, error = command(capsys, tmp_path, "--verify")
    assert (code, [line.split()[0] for line in out.splitlines() if "DAMAGED" in line]) == (1, ["b"])
    assert error == "error: 1 of 3 entries are damaged | fix: run again: it makes them anew\n"
    code, out, _ = command(capsys, tmp_path, "--older-than", "150m")
    assert (code, out.splitlines()[0][:17]) == (0, "removed 1 entries")
    code, out, _ = command(capsys, tmp_path, "--larger-than", "6KB")
    assert (code, keys(tmp_path / ".cache" / "stages")) == (0, ["b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--older-than", "30"], "no age"),
        (["--older-than", "9" * 5000 + "d"], "no age"),
        (["--larger-than", "5XB"], "no size"),
        (["--nothing"], "command line"),
        (["nowhere"], "nowhere is not a folder"),
        (["a\0b"], "is not a folder"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, error = command(capsys, *(["."] if len(arguments) == 2 else []), *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error


def test_an_output_folder_without_a_store_is_empty(tmp_path, capsys):
    assert command(capsys, tmp_path)[:2] == (0, f"0 entries, 0 B in {tmp_path}/.cache\n")


def test_a_run_says_when_the_limit_was_reached(tmp_path):
    filled(tmp_path, a=3 << 20, b=10)
    log = Log()
    _trim(StageStore(tmp_path), 1.0, log)
    assert log.lines == []
    _trim(StageStore(tmp_path), 2 / 1024, log)
    assert log.lines == [
        "what is stored reached cache_gib=0.00195312: 1 that were not used for longest are removed (0.0 GiB), "
        "0.0 GiB are left; python -m compress.cache lists them"
    ]
    assert keys(tmp_path) == ["b"]


def external(tmp_path: Path) -> Artifact:
    """An ONNX file whose weights lie beside it."""
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    return Artifact(Format.ONNX, path, Precision.FP32, INPUT, False, ())


def test_models_in_one_file_count_and_leave_unless_a_run_uses_them(tmp_path, capsys):
    stages, models = (tmp_path / "outputs" / ".cache" / name for name in ("stages", "models"))
    filled(stages, a=10)
    store = StageStore(stages, beside=[models])
    source = _in_one_file(external(tmp_path), models, store)
    (entry,) = stored(models)
    assert source.path.parent == models / entry.key
    assert entry.size_bytes > 64 * 64 * 4
    code, out, _ = command(capsys, tmp_path / "outputs", "--verify")
    assert (code, out.count("model in one file, net.onnx"), out.splitlines()[-1][:9]) == (0, 1, "2 entries")
    assert store.enforce(100).in_use == 1  # a goes first, and is too little
    assert source.path.is_file()
    source.path.write_bytes(b"else")
    assert command(capsys, tmp_path / "outputs", "--verify")[0] == 1
    del store
    gc.collect()
    assert command(capsys, tmp_path / "outputs", "--larger-than", "1")[0] == 0
    assert stored(stages, models) == []


def test_a_model_that_is_one_file_already_stays_where_it_is(tmp_path):
    whole = external(tmp_path)
    onnx.save(onnx.load(whole.path), whole.path)
    assert _in_one_file(whole, tmp_path / "models", StageStore(tmp_path / "stages")).path == whole.path
    assert not (tmp_path / "models").exists()
