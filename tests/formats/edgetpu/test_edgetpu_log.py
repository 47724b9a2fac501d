"""The compiler's log: real transcripts, whole and in parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.formats.edgetpu.log import MAPPED, OperatorRow, parse_log

MIB = 1 << 20
# Rows as in the public transcript of a YOLOv3-tiny compilation.
YOLO = """Edge TPU Compiler version 15.0.340273435

Model compiled successfully in 577 ms.

On-chip memory used for caching model parameters: 3.00KiB
On-chip memory remaining for caching model parameters: 7.67MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 36

Operator                       Count      Status

QUANTIZE                       1          Mapped to Edge TPU
QUANTIZE                       1          More than one subgraph is not supported
CONV_2D                        1          Mapped to Edge TPU
LEAKY_RELU                     11         Operation not supported
"""


def test_rows_and_memory():
    log = parse_log(YOLO)
    assert log.version == "15.0.340273435"
    assert (log.on_chip_bytes, log.on_chip_free_bytes, log.off_chip_bytes) == (3072, round(7.67 * MIB), 0)
    assert (log.subgraphs, log.operators, log.mapped) == (1, 14, 2)
    assert log.unmapped[-1] == OperatorRow("LEAKY_RELU", 11, "Operation not supported")
    assert log.summary() == (
        "compiler 15.0.340273435; 2 of 14 operators mapped; on the CPU: 1 QUANTIZE (More than one subgraph is not "
        "supported), 11 LEAKY_RELU (Operation not supported); 0.00 MiB of parameters on the chip; 1 subgraph"
    )


def test_output_and_file_together_count_once():
    assert parse_log(YOLO + YOLO) == parse_log(YOLO)


def test_what_is_not_said_is_none():
    log = parse_log("Internal compiler error. Aborting!")
    assert (log.version, log.rows, log.share, log.on_chip_bytes, log.subgraphs) == (None, (), None, None, None)


@given(st.lists(st.tuples(st.sampled_from(["ADD", "CONV_2D", "MEAN"]), st.integers(1, 99), st.booleans()), unique=True))
def test_any_table_is_read_back(rows):
    status = {True: MAPPED, False: "Operation version not supported"}
    text = "Operator    Count   Status\n\n" + "".join(f"{k:<30} {c:<10} {status[m]}\n" for k, c, m in rows)
    log = parse_log(text)
    assert log.operators == sum(count for _, count, _ in rows)
    assert log.mapped == sum(count for _, count, mapped in rows if mapped)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "mapped", "operators", "on_chip", "subgraphs"),
    [
        ("efficientdet_v16_edgetpu.log", 264, 267, None, None),
        ("efficientdet_v16_stdout.txt", 0, 0, round(4.21 * MIB), 1),
        ("mnist_fullymapped_v15_edgetpu.log", 8, 8, None, None),
        ("yolov3tiny_v15_stdout.txt", 2, 36, 3072, 1),
    ],
)
def test_real_transcripts(shared_data, name, mapped, operators, on_chip, subgraphs):
    log = parse_log((shared_data / "edgetpu_logs" / name).read_text())
    assert (log.mapped, log.operators, log.on_chip_bytes, log.subgraphs) == (mapped, operators, on_chip, subgraphs)
