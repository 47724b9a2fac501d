"""One binding of CUDA and of TensorRT's engines for the board and for the host, under the names of TensorRT 8.0 and 10.

The driver is a stand-in whose GPU memory is the host's; the engine is a double that means every image's pixels. What a
real GPU computes is shown by scripts/bench_tensorrt.py.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from doubles import ROOT

from compress.core.errors import StageError
from compress.device.agent.runners.tensorrt import TensorRtRunner
from compress.device.agent.values import Problem
from compress.formats.tensorrt import cuda
from compress.formats.tensorrt import runtime as tensorrt

STANDIN = ROOT / "tests" / "device" / "standin"
SHAPES = {"images": (-1, 3, 4, 4), "means": (-1, 2)}
LIMITS = ((1,), (2,), (4,))  # smallest, usual, largest batch; only the batch is looked at


class DataType(Enum):
    FLOAT, BOOL = range(2)


class TensorIOMode(Enum):
    INPUT, OUTPUT = range(2)


class Context:
    """Means of each image into both outputs, at the addresses it was told."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.works = True

    def set_shape(self, key, shape) -> None:
        assert key in (0, "images")
        self.shape = tuple(shape)

    def execute(self) -> bool:
        images, means = (floats(self.addresses[name], shape) for name, shape in self.sizes().items())
        means[...] = images.mean(axis=(1, 2, 3))[:, None]
        return self.works

    def sizes(self) -> dict[str, tuple[int, ...]]:
        return {"images": self.shape, "means": (self.shape[0], 2)}


class OldContext(Context):
    set_binding_shape = Context.set_shape

    def execute_v2(self, addresses) -> bool:
        self.addresses = dict(zip(SHAPES, addresses, strict=True))
        return self.execute()


class NewContext(Context):
    set_input_shape = Context.set_shape

    def set_tensor_address(self, name, address) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream) -> bool:
        return self.execute()


class OldEngine:
    """TensorRT 8.0 to 8.4: bindings with numbers."""

    num_bindings = 2
    create_execution_context = OldContext

    def get_binding_shape(self, index):
        return list(SHAPES.values())[index]

    def binding_is_input(self, index):
        return index == 0

    def get_binding_dtype(self, index):
        return DataType.FLOAT

    def get_profile_shape(self, profile, index):
        return LIMITS


class NewEngine:
    """TensorRT 8.5 and later: tensors with names."""

    num_io_tensors = 2
    create_execution_context = NewContext

    def get_tensor_name(self, index):
        return list(SHAPES)[index]

    def get_tensor_shape(self, name):
        return SHAPES[name]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def get_tensor_profile_shape(self, name, profile):
        return LIMITS


def floats(address: int, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.frombuffer((ctypes.c_float * size).from_address(address), np.float32).reshape(shape)


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler is here for the stand-in CUDA driver")
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(STANDIN / "cuda.c")], check=True)
    return library


@pytest.fixture
def gpu(driver, monkeypatch):
    real = ctypes.CDLL
    monkeypatch.setenv("STANDIN_CAPABILITY", "87")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: real(str(driver) if name == "libcuda.so.1" else name))
    cuda.open_gpu.cache_clear()
    yield cuda.open_gpu()
    cuda.open_gpu.cache_clear()


def install(monkeypatch, engine) -> None:
    """`import tensorrt` gives a package whose runtime deserializes to `engine`."""
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda content: engine)
    logger = lambda severity: None  # noqa: E731
    logger.ERROR = 3
    package = SimpleNamespace(__version__="10.0", Logger=logger, Runtime=lambda log: runtime)
    if isinstance(engine, NewEngine):
        package.TensorIOMode = TensorIOMode
    monkeypatch.setitem(sys.modules, "tensorrt", package)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, 4, 4)).astype(np.float32)


def means(batch: np.ndarray) -> np.ndarray:
    return np.repeat(batch.mean(axis=(1, 2, 3))[:, None], 2, axis=1)


@pytest.fixture(params=[OldEngine, NewEngine])
def board(request, gpu, monkeypatch, tmp_path):
    install(monkeypatch, request.param())
    (tmp_path / "net.engine").write_bytes(b"engine")
    return TensorRtRunner(str(tmp_path / "net.engine"), {}, 1)


def test_the_board_runs_an_engine_of_either_time(board):
    assert (board.smallest, board.largest, board.batch) == (1, 4, None)
    for count in (4, 1, 3):
        np.testing.assert_allclose(board.logits(images(count)), means(images(count)), atol=1e-6)


def test_a_batch_outside_the_profile_names_the_command(board):
    with pytest.raises(Problem, match=r"batch 5 is outside the engine's profile, 1 to 4 .* --batch 1,5,5"):
        board.prepare(images(5))


def test_an_engine_that_does_not_run_gives_no_number(board):
    board.engine.context.works = False
    with pytest.raises(Problem, match="failed to run the engine"):
        board.logits(images(1))


def test_an_engine_that_tensorrt_does_not_take_says_how_to_build_it(gpu, monkeypatch, tmp_path):
    install(monkeypatch, None)
    (tmp_path / "net.engine").write_bytes(b"damaged")
    with pytest.raises(Problem, match=r"cannot load .*net\.engine: it is damaged, or of another TensorRT or GPU"):
        TensorRtRunner(str(tmp_path / "net.engine"), {}, 1)
    with pytest.raises(StageError, match="cannot load net: it is damaged, or of another TensorRT or GPU"):
        tensorrt.TensorRTRunner(b"damaged", "net")


def test_too_little_memory_is_told_from_damage(gpu, monkeypatch, tmp_path):
    engine = NewEngine()
    engine.create_execution_context = lambda: None
    install(monkeypatch, engine)
    (tmp_path / "net.engine").write_bytes(b"engine")
    with pytest.raises(Problem, match="too little GPU memory to run"):
        TensorRtRunner(str(tmp_path / "net.engine"), {}, 1)
    with pytest.raises(StageError, match="too little memory to run net"):
        tensorrt.TensorRTRunner(b"engine", "net")


def test_the_host_runs_the_same_engine_in_parts(gpu, monkeypatch):
    install(monkeypatch, NewEngine())
    runner = tensorrt.TensorRTRunner(b"engine", "net")
    assert runner.name == "tensorrt 10.0 on stand-in GPU"
    assert (runner.smallest, runner.largest, runner.sample_shape) == (1, 4, (3, 4, 4))
    np.testing.assert_allclose(runner(images(7)), means(images(7)), atol=1e-6)
    (times,) = tensorrt.interleaved([runner], images(2), runs=5, warmup=1)
    assert times.compute_ms == (0.5,) * 5


def test_the_host_wants_one_output(gpu, monkeypatch):
    engine = NewEngine()
    engine.get_tensor_mode = lambda name: TensorIOMode.INPUT
    install(monkeypatch, engine)
    with pytest.raises(StageError, match="net has 2 inputs and 0 outputs, want one of each"):
        tensorrt.TensorRTRunner(b"engine", "net")


def test_a_tensor_of_another_type_beside_the_two_is_no_error(gpu, monkeypatch):
    engine = OldEngine()
    engine.get_binding_dtype = lambda index: DataType.BOOL
    install(monkeypatch, engine)
    from compress.device.agent.tensorrt_engine import Engine

    assert [one.dtype for one in Engine(sys.modules["tensorrt"], b"").tensors()] == ["bool", "bool"]


def test_the_gpu_is_described(gpu):
    assert (gpu.name, gpu.capability, gpu.free_bytes()) == ("stand-in GPU", (8, 7), 2 << 30)


def test_out_of_memory_is_each_sides_own_error(gpu):
    with pytest.raises(StageError, match=r"the GPU is out of memory .* use a smaller batch"):
        cuda.DeviceBuffer(gpu, 1 << 40)
    with pytest.raises(Problem, match=r"answers cuMemAlloc_v2 with error 2: stand-in \| fix: close other programs"):
        cuda.Cuda().allocate(1 << 40)


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    def missing(name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    cuda.open_gpu.cache_clear()
    assert cuda.open_gpu() is None
    cuda.open_gpu.cache_clear()
