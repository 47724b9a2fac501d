"""Host facts, and when INT8 measured on a host can be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compress.measure.host import _cpu_info, describe_host, int8_trusted, isa_levels


def test_this_host_describes_itself():
    host = describe_host()
    assert host.cpu
    assert host.cores >= 1
    assert host.memory_bytes > 1 << 28
    assert host.label.startswith(host.cpu)


def test_levels_come_strongest_first_under_the_names_reports_use():
    assert isa_levels(["fpu", "avx2", "avx512f", "avx512_vnni", "amx_int8"]) == (
        "amx_int8",
        "avx512_vnni",
        "avx512",
        "avx2",
    )
    assert isa_levels(["fp", "asimd", "evtstrm", "crc32", "cpuid"]) == ("neon",)  # Raspberry Pi 4
    assert isa_levels(["fp", "asimd", "asimddp", "fphp"]) == ("asimddp", "fp16", "neon")


@pytest.mark.parametrize(
    ("architecture", "isa", "reduce_range", "trusted"),
    [
        ("x86_64", ("avx2",), False, False),
        ("x86_64", ("avx512", "avx2"), False, False),
        ("x86_64", ("avx2",), True, True),
        ("x86_64", ("avx512_vnni", "avx2"), False, True),
        ("AMD64", ("avx_vnni", "avx2"), False, True),
        ("x86_64", (), False, False),
        ("aarch64", ("neon",), False, True),
        ("riscv64", (), True, False),
    ],
)
def test_u8s8_is_exact_with_vnni_or_seven_bit_weights_or_on_arm(architecture, isa, reduce_range, trusted):
    host = replace(describe_host(), architecture=architecture, isa=isa)
    assert int8_trusted(host, reduce_range=reduce_range) is trusted


def test_reads_arm_and_missing_cpuinfo(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nFeatures\t: fp asimd\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n")
    assert _cpu_info(path) == ("Raspberry Pi 4 Model B Rev 1.4", ["fp", "asimd"])
    assert _cpu_info(tmp_path / "absent") == ("", [])
