"""What a device answers is a stranger's: bounded, typed, in its own order, and shown as text."""

from __future__ import annotations

import json

import pytest
from bundle_factory import make_bundle

from compress.core.errors import DeviceError
from compress.results.bundle import read_bundle
from compress.results.device import read_result


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return read_bundle(make_bundle(tmp_path_factory.mktemp("made")))


def result_of(bundle, **changes) -> bytes:
    document = {
        "schema_version": 1,
        "manifest_sha256": bundle.digest,
        "target": "raspberry_pi_4",
        "started": "2026-01-01T00:00:00Z",
        "device": {"model": "Pi\x1b[2J", "architecture": "aarch64", "cores": 4, "system": "Linux", "python": "3.11.2"},
        "results": [],
        "finished": True,
    }
    return json.dumps({**document, **changes}).encode()


def test_texts_from_a_device_cannot_move_the_cursor(bundle):
    assert read_result(result_of(bundle), bundle, "pi").device.model == "Pi\\x1b[2J"


def test_a_result_of_another_bundle_is_refused(bundle):
    with pytest.raises(DeviceError, match=r"pi measured another bundle \(manifest 000000000000"):
        read_result(result_of(bundle, manifest_sha256="0" * 64), bundle, "pi")


def test_a_number_without_matching_outputs_is_refused(bundle):
    row = {"stage": "net", "precision": "fp32", "threads": 1, "batch": 1, "problem": None}
    with pytest.raises(DeviceError, match="without matching golden outputs"):
        read_result(result_of(bundle, results=[row]), bundle, "pi")


LATENCY = {
    **dict.fromkeys(("median_ms", "low_ms", "high_ms", "p90_ms", "p99_ms", "min_ms"), 1.0),
    "runs": 5,
    "warmup": 2,
    "settled": True,
    "throughput_per_s": 1000.0,
}


def measured(**latency) -> dict:
    row = {"stage": "net", "precision": "fp32", "threads": 1, "batch": 1, "problem": None}
    return {**row, "golden": {"passed": True}, "latency": {**LATENCY, **latency}}


@pytest.mark.parametrize("name", ["median_ms", "low_ms", "min_ms"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "NaN", 1e308, None, []])
def test_a_time_that_is_none_is_refused(bundle, name, value):
    with pytest.raises(DeviceError, match="not a result") as caught:
        read_result(result_of(bundle, results=[measured(**{name: value})]), bundle, "pi")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"runs": -1}, {"warmup": -1}, {"runs": 1 << 60}, {"throughput_per_s": "Infinity"}])
def test_counts_that_are_none_are_refused(bundle, changes):
    assert read_result(result_of(bundle, results=[measured()]), bundle, "pi").results[0].latency.runs == 5
    with pytest.raises(DeviceError, match="not a result"):
        read_result(result_of(bundle, results=[measured(**changes)]), bundle, "pi")


@pytest.mark.parametrize(
    "latency",
    [{"min_ms": 1.1}, {"low_ms": 1.1}, {"high_ms": 0.9}, {"p90_ms": 0.9}, {"p99_ms": 0.9}, {"p90_ms": 3.0}],
    ids=lambda latency: next(iter(latency)),
)
def test_percentiles_out_of_order_are_refused(bundle, latency):
    with pytest.raises(DeviceError, match="percentiles of 'net' that are not in their order"):
        read_result(result_of(bundle, results=[measured(**latency)]), bundle, "pi")


def test_a_stage_that_the_bundle_has_not_is_refused(bundle):
    with pytest.raises(DeviceError, match="measured 'other', which is not in the bundle"):
        read_result(result_of(bundle, results=[{**measured(), "stage": "other"}]), bundle, "pi")


def test_a_share_above_one_is_refused(bundle):
    row = {**measured(), "golden": {"passed": True, "agreement": 1.5}}
    with pytest.raises(DeviceError, match="not a result"):
        read_result(result_of(bundle, results=[row]), bundle, "pi")


def test_not_a_number_is_refused_wherever_it_stands(bundle):
    with pytest.raises(DeviceError, match="NaN is not a number in JSON"):
        read_result(result_of(bundle, extra=float("nan")), bundle, "pi")
    with pytest.raises(DeviceError, match="not a result"):
        read_result(b"[" * 200_000, bundle, "pi")


def test_long_texts_and_keys_of_a_device_are_cut_and_escaped(bundle):
    watts = {"rail\n\x1b[2J": 1.0}
    row = {**measured(), "mean_watts": watts, "runtime": "r" * 100_000}
    (found,) = read_result(result_of(bundle, results=[row]), bundle, "pi").results
    assert list(found.mean_watts) == [r"rail\n\x1b[2J"]
    assert len(found.runtime) == 1000


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"schema_version": 1}'])
def test_something_else_is_refused(bundle, content):
    with pytest.raises(DeviceError, match="not a result"):
        read_result(content, bundle, "pi")
