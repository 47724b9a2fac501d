"""The agent and the whole way over SSH on emulated Raspberry Pis: real aarch64 wheels, a real aarch64 sshd.

The user space is fetched from the Debian and Python registries once (see scripts/emulate_pi); offline these tests skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_factory import first_commands, make_bundle
from doubles import ROOT
from onnx import TensorProto, helper, numpy_helper
from platformdirs import user_cache_path

from compress.config.schema import load_target
from compress.core.artifact import Format
from compress.core.errors import DeviceError
from compress.device.inventory import find_devices
from compress.device.visit import BenchOptions, check_device, measure_on
from compress.results.bundle import read_bundle
from compress.results.device import read_result

sys.path.append(str(ROOT / "scripts"))

from emulate_pi.board import build, dress, for_the_board, pip_for_the_board
from emulate_pi.server import start

pytestmark = pytest.mark.emulated

OPTIONS = BenchOptions(seconds=1.0, threads=(1,), patience_seconds=90)


@pytest.fixture(scope="session")
def space():
    if os.uname().sysname != "Linux" or os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("needs Linux on x86_64 or aarch64")
    wheels = load_target("raspberry_pi_4", []).deployment[Format.ONNX].packages
    try:
        return build(user_cache_path("edge-compress") / "emulated-pi", wheels)
    except OSError as error:
        pytest.skip(f"the emulated board cannot be fetched: {error}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the aarch64 wheels cannot be fetched: {str(error.stderr).strip().splitlines()[-1:]}")


@pytest.fixture(scope="module")
def server(space, tmp_path_factory):
    if shutil.which("ssh") is None:
        pytest.skip("OpenSSH's client is not installed")
    try:
        running = start(space, "raspberry_pi_4", tmp_path_factory.mktemp("client"))
    except OSError as error:
        pytest.skip(f"no namespaces for an emulated board here: {error}")
    yield running
    running.stop()


def transport(server):
    return find_devices(["pi"], inventory=None, target=None, ssh_config=server.config)["pi"]


def quantized_network(path: Path, *, activations: type, weights: type, weight_limit: int = 127) -> Path:
    """Three QDQ convolutions and a QDQ Gemm whose every quantized tensor is also an output.

    Scales are drawn, as calibration gives them: with round ones, sums fall on exact halves, which kernels round apart.
    """
    random = np.random.default_rng(5)
    low = np.iinfo(activations).min
    zero = np.array(128 + low, activations)
    nodes, stored, outputs = [], {}, []

    def quantized(name: str, source: str, scale: float) -> str:
        stored[f"{name}_s"], stored[f"{name}_z"] = np.float32(scale * random.uniform(0.9, 1.1)), zero
        nodes.append(helper.make_node("QuantizeLinear", [source, f"{name}_s", f"{name}_z"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [name]))
        outputs.append((f"{name}_q", activations))
        return name

    def weight(name: str, shape: tuple[int, ...]) -> str:
        middle = 128 if weights is np.uint8 else 0
        values = random.integers(-weight_limit, weight_limit + 1, shape) + middle
        stored[f"{name}_q"] = values.astype(weights)
        scale = np.float32(0.01 * random.uniform(0.9, 1.1))
        stored[f"{name}_s"], stored[f"{name}_z"] = scale, np.array(middle, weights)
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [name]))
        return name

    value, channels = quantized("x0", "input", 0.03), 3
    for layer, width in enumerate((16, 32, 32)):
        name = weight(f"w{layer}", (width, channels, 3, 3))
        nodes.append(helper.make_node("Conv", [value, name], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        value, channels = quantized(f"x{layer + 1}", f"r{layer}", (0.12, 0.5, 2.0)[layer]), width
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    gemm = helper.make_node("Gemm", [quantized("flat_in", "flat", 0.6), weight("g", (10, 32))], ["logits"], transB=1)
    nodes.append(gemm)
    quantized("out", "logits", 0.4)
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 16, 16])],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
            for name, kind in outputs
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


ALL_TENSORS = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
inputs = numpy.load(sys.argv[1])
for path in sys.argv[2:]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    runs = [session.run(None, {"input": image[None]}) for image in inputs]
    numpy.savez(path + "." + os.uname().machine, *[numpy.concatenate(tensors) for tensors in zip(*runs)])
"""

SCHEMES = {
    "u8u8": ({"activations": np.uint8, "weights": np.uint8}, 0),
    "u8s8_reduce_range": ({"activations": np.uint8, "weights": np.int8, "weight_limit": 63}, 0),
    "s8s8": ({"activations": np.int8, "weights": np.int8}, 3),
}


@pytest.fixture(scope="module", params=["raspberry_pi_4", "raspberry_pi_5"])
def differences(request, space, tmp_path_factory):
    """Largest difference in LSB over all quantized tensors of each scheme, emulated board against this host."""
    folder = tmp_path_factory.mktemp("schemes")
    paths = {name: quantized_network(folder / f"{name}.onnx", **how) for name, (how, _) in SCHEMES.items()}
    np.save(folder / "inputs.npy", np.random.default_rng(2).normal(size=(2, 3, 16, 16)).astype(np.float32))
    (folder / "run.py").write_text(ALL_TENSORS)
    arguments = [str(folder / "run.py"), str(folder / "inputs.npy"), *map(str, paths.values())]
    dress(space, request.param)
    for command in ([sys.executable, *arguments], space.python(request.param, *arguments)):
        subprocess.run(command, check=True, timeout=200)
    return {name: largest_difference(path) for name, path in paths.items()}


def largest_difference(path: Path) -> int:
    with np.load(f"{path}.{os.uname().machine}.npz") as here, np.load(f"{path}.aarch64.npz") as there:
        return max(int(np.abs(here[name].astype(int) - there[name].astype(int)).max()) for name in here.files)


def test_integer_tensors_are_those_of_the_host(differences):
    assert {name: differences[name] <= limit for name, (_, limit) in SCHEMES.items()} == dict.fromkeys(SCHEMES, True)
    assert differences["u8u8"] == differences["u8s8_reduce_range"] == 0, differences


@pytest.mark.slow  # tests/device/test_visit.py cuts the line at several places, to a board that is this machine
def test_a_server_killed_halfway_loses_nothing(server, tmp_path):
    """The board loses power in the middle of the benchmark and comes back."""
    bundle = read_bundle(make_bundle(tmp_path, dynamic=True))
    said: list[str] = []
    cut = threading.Event()

    def power_cut(text: str) -> None:
        said.append(text)
        if "median ms" in text and not cut.is_set():
            cut.set()
            server.stop()
            server.restart()

    result = measure_on(transport(server), bundle, OPTIONS, power_cut)
    assert [text for text in said if text.startswith("connection lost")]
    assert len([text for text in said if text.startswith("copied")]) == 1
    assert [row.batch for row in result.results] == [1, 8]
    assert all(row.problem is None for row in result.results)
    assert result.finished


def test_an_unknown_host_key_is_refused(server, tmp_path):
    config = tmp_path / "ssh_config"
    known = server.config.with_name("known_hosts")
    config.write_text(server.config.read_text().replace(str(known), str(tmp_path / "none")))
    with pytest.raises(DeviceError, match="shows a host key you do not know yet; nothing was sent"):
        check_device(find_devices(["pi"], inventory=None, target=None, ssh_config=config)["pi"])


def test_a_changed_host_key_is_refused(server, tmp_path):
    known = tmp_path / "known_hosts"
    other = server.config.with_name("id.pub").read_text()
    known.write_text(f"[127.0.0.1]:{server.port} {other}")
    config = tmp_path / "ssh_config"
    config.write_text(server.config.read_text().replace(str(server.config.with_name("known_hosts")), str(known)))
    with pytest.raises(DeviceError, match="shows another host key than the one you know"):
        check_device(find_devices(["pi"], inventory=None, target=None, ssh_config=config)["pi"])


def test_a_key_that_is_not_accepted_is_explained(server, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    config = tmp_path / "ssh_config"
    config.write_text(
        server.config.read_text().replace(str(server.config.with_name("id")) + "\n", f"{tmp_path / 'other'}\n")
    )
    with pytest.raises(DeviceError, match=r"accepts none of your keys; passwords are not used .* ssh-copy-id pi"):
        check_device(find_devices(["pi"], inventory=None, target=None, ssh_config=config)["pi"])


@pytest.mark.slow
def test_the_readme_of_a_bundle_typed_on_the_board_leads_to_figures(server, space, tmp_path):
    """Debian 12 as it comes: its Python refuses to install packages outside a virtual environment (PEP 668).

    pip's index is a folder of the very wheels that its own index has for an aarch64 board.
    """
    bundle = make_bundle(tmp_path)
    home = space.root / "home/pi"
    wheels = [line for line in (bundle / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    shutil.copytree(bundle, home / "bundle")
    try:
        pip_for_the_board("download", "--dest", str(home / "wheels"), "pip", *for_the_board(wheels))
        subprocess.run(["chown", "-R", "1000:1000", str(home)], check=os.geteuid() == 0)
        offline = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/home/pi/wheels; cd bundle"

        def typed(line):
            command = ["ssh", "-F", str(server.config), "pi", f"{offline}; {line}"]
            return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)

        bare = typed("ls /usr/lib/python3.11")
        assert "EXTERNALLY-MANAGED" in bare.stdout
        for line in first_commands(bundle):
            done = typed(line + (" --seconds 1 --threads 1" if "benchmark.py" in line else ""))
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        (row,) = json.loads((home / "bundle/result.json").read_text())["results"]
        assert (row["problem"], row["runtime"]) == (None, "onnxruntime 1.31.1")
    finally:
        for name in ("bundle", "wheels"):
            shutil.rmtree(home / name, ignore_errors=True)


def test_the_whole_way_over_ssh(server, tmp_path):
    """The command as a user types it: copy, set up, run, fetch, and the file it leaves."""
    folder = make_bundle(tmp_path)
    command = [sys.executable, "-m", "compress.device", "bench", "pi", "--ssh-config", str(server.config)]
    options = ["--bundle", str(folder), "--seconds", "1", "--threads", "1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "EMULATED by qemu" in done.stdout
    result = read_result((tmp_path / "device-pi.json").read_bytes(), read_bundle(folder), "pi")
    assert (result.device.model, result.device.architecture) == ("Raspberry Pi 4 Model B Rev 1.4", "aarch64")
    assert result.device.emulated.startswith("qemu")
    assert result.device.cpu_flags == ("fp", "asimd", "evtstrm", "crc32", "cpuid")
    (row,) = result.results
    assert row.golden.passed
    assert (row.before.governor, row.before.clocks_mhz) == ("ondemand", (1800.0,) * 4)
