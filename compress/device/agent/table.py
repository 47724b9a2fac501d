"""Table that the benchmark prints."""

from .values import Json

HEADER = "%-16s %-10s %-26s %3s %3s  %9s %9s %9s %9s %7s  %8s %8s  %s" % (
    ("model", "precision", "runtime", "thr", "bat", "median ms", "p90", "p99", "min", "n", "per s", "RSS MiB", "golden")
)


def row(result: Json) -> str:
    """One line of the table."""
    names = (result["stage"], result["precision"], result.get("runtime") or "-")
    start = "%-16s %-10s %-26s %3d %3d  " % (names + (result["threads"], result["batch"]))
    if result["problem"]:
        return "%sNOT VALID: %s" % (start, result["problem"])
    latency, golden = result["latency"], result["golden"]
    figures = tuple(latency[name] for name in ("median_ms", "p90_ms", "p99_ms", "min_ms"))
    close = "identical" if golden["identical"] else "within tolerance (%.2g)" % golden["max_abs_error"]
    memory = (result["peak_rss_bytes"] or 0) / float(1 << 20)
    tail = (latency["runs"], latency["throughput_per_s"], memory, close)
    return start + "%9.3f %9.3f %9.3f %9.3f %7d  %8.1f %8.1f  %s" % (figures + tail)


def banner(manifest: Json, device: Json, state: Json) -> str:
    lines = ["%s for %s on %s (%s)" % (manifest["producer"], manifest["target"], device["model"], device["system"])]
    if device["emulated"]:
        lines.append("EMULATED by %s: outputs are real, times mean nothing" % device["emulated"])
    elif device["virtual_machine"]:
        lines.append("a virtual machine: times depend on its neighbours")
    lines.append(
        "governor %s, clocks %s MHz, %s C, throttling %s"
        % (state["governor"], state["clocks_mhz"] or "unknown", state["celsius"], state["throttled"])
    )
    return "\n".join(lines)
