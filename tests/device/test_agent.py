import faulthandler
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from bundle_factory import QUICK, edit_manifest, images, make_bundle, run_agent
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.device.agent.golden import compare
from compress.device.agent.isolation import isolated
from compress.device.agent.machine import describe_device
from compress.device.agent.order_statistics import median_interval, quantile
from compress.device.agent.state import Watcher, read_state, throttled
from compress.device.agent.timing import FEWEST_CALLS, measure
from compress.device.agent.values import Problem
from compress.measure import latency
from compress.results.device import DeviceLatency


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


def test_a_good_bundle_is_checked_and_timed(bundle):
    done = run_agent(bundle, *QUICK)
    assert done.code == 0, done.err
    (result,) = done.result["results"]
    assert (result["stage"], result["threads"], result["batch"], result["problem"]) == ("net", 1, 1, None)
    assert result["golden"]["identical"]
    assert result["golden"]["samples"] == 4
    time = result["latency"]
    assert 0 < time["min_ms"] <= time["low_ms"] <= time["median_ms"] <= time["high_ms"]
    assert time["median_ms"] <= time["p90_ms"] <= time["p99_ms"]
    assert time["runs"] >= 3
    assert time["throughput_per_s"] == pytest.approx(1000 / time["median_ms"])
    assert result["peak_rss_bytes"] > 10_000_000
    assert done.result["finished"]
    assert "identical" in done.out


def test_the_result_names_the_manifest_and_the_device(bundle):
    done = run_agent(bundle, *QUICK)
    import hashlib

    assert done.result["manifest_sha256"] == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    device = done.result["device"]
    assert device["architecture"] == os.uname().machine
    assert device["cores"] == len(os.sched_getaffinity(0))
    assert device["numpy"] == np.__version__
    assert device["emulated"] is None


def test_batches_and_threads_multiply(tmp_path):
    bundle = make_bundle(tmp_path, dynamic=True)
    done = run_agent(bundle, "--any-device", "--seconds", "0.1", "--threads", "1,2", "--batch", "1,4")
    assert [(row["threads"], row["batch"]) for row in done.result["results"]] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    one, four = done.result["results"][:2]
    assert four["latency"]["throughput_per_s"] == pytest.approx(4000 / four["latency"]["median_ms"])
    assert one["runtime"].startswith("onnxruntime ")


def test_a_tampered_file_stops_everything_before_it_is_loaded(bundle):
    with (bundle / "net.onnx").open("ab") as stream:
        stream.write(b"x")
    done = run_agent(bundle, *QUICK)
    assert (done.code, done.result) == (2, None)
    assert "net.onnx is not the file the manifest names" in done.err
    assert "nothing was loaded" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["../net.onnx", "/etc/passwd", "a/../../x", "C:/x", "..\\x", ""])
def test_paths_that_leave_the_bundle_are_refused(bundle, name):
    edit_manifest(bundle, lambda document: document["models"][0].update(path=name))
    done = run_agent(bundle, *QUICK)
    assert done.code == 2
    assert "leaves the bundle" in done.err


def test_a_link_out_of_the_bundle_is_refused(bundle):
    (bundle / "net.onnx").unlink()
    (bundle / "net.onnx").symlink_to("/etc/passwd")
    done = run_agent(bundle, *QUICK)
    assert done.code == 2
    assert "leaves the bundle" in done.err


def test_another_architecture_is_refused(bundle):
    edit_manifest(bundle, lambda document: document["device"].update(architecture="riscv64"))
    done = run_agent(bundle, "--seconds", "0.1")
    assert done.code == 2
    assert f"is for raspberry_pi_4 (riscv64), this machine is {os.uname().machine}" in done.err
    assert "--any-device" in done.err


def test_a_golden_mismatch_gives_no_number(bundle):
    with np.load(bundle / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["net"] = arrays["net"] + 0.5
    np.savez(bundle / "golden.npz", **arrays)
    edit_manifest(bundle, lambda document: None)
    done = run_agent(bundle, *QUICK)
    assert done.code == 1
    (result,) = done.result["results"]
    assert "latency" not in result
    assert "golden outputs do not match" in result["problem"]
    assert "allowed 0.001" in result["problem"]
    assert "NOT VALID" in done.out


def test_a_runtime_too_old_for_the_opset_says_so(bundle):
    import onnx

    model = onnx.load(bundle / "net.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, bundle / "net.onnx")
    edit_manifest(bundle, lambda document: document["models"][0].update(opset=99))
    done = run_agent(bundle, *QUICK)
    assert done.code == 1
    assert "is too old for opset 99" in done.out
    assert "requirements.txt" in done.out


def test_a_missing_runtime_says_what_to_install(bundle, tmp_path):
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "onnxruntime.py").write_text("raise ImportError('No module named onnxruntime')")
    done = run_agent(bundle, *QUICK, environment={**os.environ, "PYTHONPATH": str(tmp_path / "hide")})
    assert done.code == 1
    assert "onnxruntime cannot be imported" in done.out
    assert "pip install -r requirements.txt" in done.out


def test_a_cpu_without_a_needed_feature_is_told_before_it_crashes(bundle):
    flags = {os.uname().machine: ["sve9"]}
    edit_manifest(bundle, lambda document: document["models"][0].update(cpu_flags=flags))
    done = run_agent(bundle, *QUICK)
    assert done.code == 1
    assert "needs the CPU feature sve9" in done.out


def test_an_unknown_model_is_refused(bundle):
    done = run_agent(bundle, *QUICK, "--models", "nt")
    assert done.code == 2
    assert "no model 'nt' in this bundle; it has net" in done.err


def test_resume_keeps_what_was_measured(bundle):
    first = run_agent(bundle, *QUICK, "--resume")
    again = run_agent(bundle, *QUICK, "--resume")
    assert again.result["results"] == first.result["results"]
    changed = run_agent(bundle, "--any-device", "--threads", "1", "--seconds", "0.2", "--resume")
    assert changed.result["results"] != first.result["results"]


def test_a_crash_is_an_answer():
    def die():
        faulthandler.disable()  # pytest's would print a traceback
        os.kill(os.getpid(), signal.SIGILL)

    with pytest.raises(Problem, match="uses instructions this CPU does not have"):
        isolated(die)


@pytest.mark.parametrize("code", [0, 3])
def test_a_runtime_that_ends_the_process_is_an_answer(code):
    with pytest.raises(Problem, match=f"the runtime ended the process, with exit code {code}"):
        isolated(lambda: os._exit(code))


def test_ctrl_c_in_the_child_ends_the_child_only():
    """It does not go on as a second parent."""

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(Problem, match="the runtime ended the process, with exit code 1"):
        isolated(interrupt)


def test_an_unexpected_exception_is_an_answer(capfd):
    def fail():
        raise KeyError("weights")

    with pytest.raises(Problem, match="KeyError: 'weights'"):
        isolated(fail)
    assert "Traceback" in capfd.readouterr().err


@given(st.integers(30, 900))
@settings(deadline=None, max_examples=30)
def test_the_interval_of_the_median_is_the_exact_one_within_a_rank(count):
    """The ranks of the agent's normal approximation against those of the binomial distribution."""
    low, high = median_interval(range(count))
    exact_low, exact_high = latency.median_interval(range(count))
    assert abs(low - exact_low) <= 1
    assert abs(high - exact_high) <= 1


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values, q):
    assert quantile(sorted(values), q) == pytest.approx(np.quantile(values, q))


def test_measuring_stops_when_the_median_is_settled():
    calls = []
    found = measure(calls.append, 0, 5.0)
    assert found["settled"]
    assert found["runs"] + found["warmup"] == len(calls)
    assert found["runs"] >= FEWEST_CALLS


def test_comparison_knows_every_limit():
    expected = np.array([[1.0, 4.0]], np.float32)
    close = expected + np.float32(0.01)
    assert compare(expected, expected, {"abs_error": 0.0})["identical"]
    assert compare(expected, close, {"abs_error": 0.02})["passed"]
    assert "allowed 0.005" in compare(expected, close, {"abs_error": 0.005})["reason"]
    assert "of the largest output" in compare(expected, close, {"relative_error": 1e-3})["reason"]
    assert "dB" in compare(expected, close, {"sqnr_db": 60.0})["reason"]
    assert "NaN" in compare(expected, expected * np.nan, {})["reason"]
    assert "shape" in compare(expected, expected[:, :1], {})["reason"]


def test_throttling_flags_of_a_raspberry_pi():
    assert throttled("throttled=0x50005") == [
        "under-voltage",
        "throttled",
        "under-voltage since boot",
        "throttled since boot",
    ]
    assert throttled("throttled=0x0") == []
    assert throttled(None) is None


def lay(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_clocks_temperature_and_power_are_read(tmp_path):
    cpu = "sys/devices/system/cpu/cpu0/cpufreq"
    lay(
        tmp_path,
        {
            f"{cpu}/scaling_governor": "ondemand\n",
            f"{cpu}/scaling_cur_freq": "600000\n",
            "sys/class/thermal/thermal_zone0/temp": "45277\n",
            "sys/class/thermal/thermal_zone1/temp": "51000\n",
            "sys/class/hwmon/hwmon3/name": "ina3221\n",
            "sys/class/hwmon/hwmon3/in1_label": "VDD_IN\n",
            "sys/class/hwmon/hwmon3/in1_input": "5000\n",
            "sys/class/hwmon/hwmon3/curr1_input": "800\n",
        },
    )
    state = read_state(str(tmp_path))
    assert (state["governor"], state["clocks_mhz"], state["celsius"]) == ("ondemand", [600.0], 51.0)
    assert state["watts"] == {"VDD_IN": 4.0}


def test_power_is_summed_up_with_its_spread_and_the_number_of_readings():
    watcher = Watcher()
    watcher.watts = [{"VDD_IN": 4.0, "GPU": None}, {"VDD_IN": 6.0, "GPU": 1.0}, {"VDD_IN": 5.0, "GPU": None}]
    summary = watcher.summary()
    assert summary["mean_watts"] == {"GPU": 1.0, "VDD_IN": 5.0}
    assert summary["watts_deviation"] == {"VDD_IN": 1.0}
    assert summary["watts_readings"] == {"GPU": 1, "VDD_IN": 3}
    assert Watcher().summary() == dict.fromkeys(summary)


def test_a_device_that_tells_nothing_is_no_error(tmp_path):
    state = read_state(str(tmp_path))
    assert (state["governor"], state["clocks_mhz"], state["celsius"], state["watts"]) == (None, [], None, None)
    assert describe_device(str(tmp_path))["memory_bytes"] is None


def test_the_device_is_named_by_its_device_tree(tmp_path):
    lay(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd crc32\n",
            "proc/meminfo": "MemTotal:        3884360 kB\n",
        },
    )
    device = describe_device(str(tmp_path))
    assert device["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert device["cpu_flags"] == ["fp", "asimd", "crc32"]
    assert device["memory_bytes"] == 3884360 * 1024


def test_torchscript_runs(bundle):
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    torch.jit.freeze(torch.jit.script(module)).save(bundle / "net.onnx")
    expected = module(torch.from_numpy(images())).detach().numpy()
    np.savez(bundle / "golden.npz", inputs=images(), net=expected)
    edit_manifest(bundle, lambda document: document["models"][0].update(format="torchscript", runner="torchscript"))
    done = run_agent(bundle, *QUICK)
    assert done.code == 0, done.out + done.err
    assert done.result["results"][0]["runtime"].startswith("torch ")


def litert_bundle(bundle, source):
    """The bundle with a real quantized MobileNet instead of its own model."""
    from ai_edge_litert.interpreter import Interpreter

    shutil.copy(source / "mobilenet_v1_0.25_128_quant.tflite", bundle / "net.onnx")
    interpreter = Interpreter(str(bundle / "net.onnx"))
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    logits = []
    for image in pixels:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        scale, zero_point = exit_["quantization"]
        logits.append((interpreter.get_tensor(exit_["index"]).astype(np.float32) - zero_point) * scale)
    scale, zero_point = entry["quantization"]
    inputs = ((pixels.astype(np.float32) - zero_point) * scale).transpose(0, 3, 1, 2)
    np.savez(bundle / "golden.npz", inputs=inputs, net=np.concatenate(logits).astype(np.float32))
    spec = {
        "format": "tflite",
        "runner": "litert",
        "sample_shape": [3, 128, 128],
        "tolerance": {"any": {"abs_error": 0.0}},
    }
    edit_manifest(bundle, lambda document: document["models"][0].update(spec))


@pytest.mark.real_data
def test_a_real_quantized_tflite_file_gives_identical_outputs(bundle, shared_data):
    pytest.importorskip("ai_edge_litert")
    litert_bundle(bundle, shared_data / "tflite" / "coral")
    done = run_agent(bundle, *QUICK)
    assert done.code == 0, done.out + done.err
    (result,) = done.result["results"]
    assert result["golden"]["identical"]
    assert result["runtime"].startswith("ai_edge_litert 2.")


@pytest.mark.real_data
def test_a_file_compiled_for_the_edge_tpu_needs_one(bundle, shared_data):
    pytest.importorskip("ai_edge_litert")
    litert_bundle(bundle, shared_data / "tflite" / "coral")
    shutil.copy(shared_data / "tflite" / "coral" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite", bundle / "net.onnx")
    edit_manifest(bundle, lambda document: None)
    done = run_agent(bundle, *QUICK)
    assert done.code == 1
    assert "no Edge TPU answers" in done.out
    assert "libedgetpu1-std" in done.out


def test_tensorrt_that_is_not_there_says_where_it_comes_from(bundle):
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    edit_manifest(bundle, lambda document: document["models"][0].update(format="tensorrt"))
    done = run_agent(bundle, *QUICK)
    assert done.code == 1
    assert "tensorrt cannot be imported" in done.out
    assert "JetPack" in done.out


def test_the_result_is_strict_json(bundle):
    done = run_agent(bundle, *QUICK)
    text = json.dumps(done.result, allow_nan=False)
    assert json.loads(text) == done.result


@pytest.mark.parametrize("script", ["benchmark.py", "build_engine.py"])
@pytest.mark.parametrize("start", ["in the bundle", "beside it"])
def test_no_file_of_the_bundle_stands_in_for_a_module(tmp_path, script, start):
    """Whatever lies in the folder, numpy and the standard library are those of the interpreter."""
    bundle = make_bundle(tmp_path, target="jetson_nano", opset=13)
    names = ("argparse", "ctypes", "hashlib", "json", "numpy", "onnxruntime", "signal", "tensorrt", "typing")
    for name in names:
        (bundle / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()")
    inside = start == "in the bundle"
    command = [sys.executable, script if inside else str(bundle / script), "--any-device"]
    command += ["--seconds", "0.1", "--threads", "1"] if script == "benchmark.py" else []
    done = subprocess.run(command, cwd=bundle if inside else tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr.startswith("error: "), done.stderr
    assert not (tmp_path / "marker").exists()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=80))
def test_law_what_the_agent_writes_is_in_the_order_that_its_reader_asks_for(times):
    ordered = sorted(times)
    low, high = median_interval(ordered)
    middle, p90, p99 = (quantile(ordered, q) for q in (0.5, 0.9, 0.99))
    assert DeviceLatency(middle, low, high, p90, p99, ordered[0], len(times), 3, True, 1.0).ordered
