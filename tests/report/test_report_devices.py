import io
import json
from dataclasses import replace

from rich.console import Console

from compress.measure.estimate.roofline import Estimate
from compress.report.columns import device_heads, device_rows
from compress.report.devices import device_notes, devices_table, estimate_lines
from compress.results.device import DeviceFacts, DeviceLatency, DeviceResult, DeviceRow, DeviceRun, GoldenCheck
from compress.support.serialize import from_json, to_json


def run(name="kitchen", *, emulated=None, settled=True):
    latency = DeviceLatency(12.3, 12.2, 12.5, 13.1, 15.0, 12.0, 240, 20, settled, 81.3)
    rows = (
        DeviceRow(
            "to_onnx",
            "int8",
            4,
            1,
            None,
            "onnxruntime 1.31.1",
            40.0,
            GoldenCheck(True, None, True, 0.0),
            latency,
            1 << 26,
        ),
        DeviceRow("to_onnx_fp32", "fp32", 4, 1, "golden outputs do not match on this device: NaN"),
    )
    facts = DeviceFacts("Raspberry Pi 4", "aarch64", 4, "Linux 6.6", "3.11.2", emulated=emulated)
    return DeviceRun(name, DeviceResult(1, "0" * 64, "raspberry_pi_4", "2026-01-01T00:00:00Z", facts, rows, True))


def text(renderable) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_numbers_and_failures_stand_side_by_side():
    shown = text(devices_table([run()]))
    assert "12.3 (13.1)" in shown
    assert "identical" in shown
    assert "runtime" in shown.splitlines()[0]
    assert "onnxruntime" in shown
    assert "64.00 MiB" in shown
    assert "golden outputs do not match" in shown
    assert not run().valid


def test_an_emulated_device_is_marked():
    assert "emulated" in text(devices_table([run(emulated="qemu-aarch64")]))
    ((name, note),) = device_notes([run(emulated="qemu-aarch64", settled=False)])
    assert name == "kitchen"
    assert "times mean nothing" in note
    assert "some medians had not settled" in note


def test_an_estimate_is_called_one_and_has_a_range():
    ((stage, line),) = estimate_lines([Estimate("to_onnx", 40.0, 20.0, 80.0, 4, "roofline of Raspberry Pi 4")])
    assert (stage, line) == ("to_onnx", "estimate 40.0 ms (20.0 to 80.0 ms) with 4 threads; roofline of Raspberry Pi 4")


def test_a_device_run_survives_json():
    assert from_json(DeviceRun, to_json(run())) == run()
    json.loads(to_json(run()))


def test_names_of_strangers_move_no_cursor():
    hostile = replace(run(), name="pi\nerror: forged\x1b[2J")
    facts = replace(hostile.result.device, model="Pi\x1b[2J\n")
    hostile = replace(hostile, result=replace(hostile.result, device=facts))
    assert r"\x1b[2J" in text(devices_table([hostile]))
    ((name, note),) = device_notes([hostile])
    assert (name + note).isprintable()


def test_energy_is_shown_with_its_interval_where_a_board_metered_it():
    plain = run()
    (row, other), result = plain.result.results, plain.result
    rails = {"watts_deviation": {"VDD_IN": 0.1}, "watts_readings": {"VDD_IN": 31}}
    row = replace(row, mean_watts={"VDD_IN": 5.0}, **rails)
    metered = replace(plain, result=replace(result, results=(row, other)))
    cells = dict(zip([head.title for head in device_heads([metered])], next(device_rows([metered])), strict=True))
    assert cells["mJ per image (95 %)"].value == "61.5 (60.6–62.4), n=31, VDD_IN"
    assert "mJ per" in text(devices_table([metered]))
    assert "mJ" not in text(devices_table([plain]))
    assert [len(cells) for cells in device_rows([metered])] == [len(device_heads([metered]))] * 2
    assert [len(cells) for cells in device_rows([plain])] == [len(device_heads([plain]))] * 2
    assert from_json(type(metered), to_json(metered)) == metered
