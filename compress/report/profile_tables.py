"""A profile on a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compress.profile.diff import Pair
from compress.profile.document import LayerProfile, Profile
from compress.report.text import bytes_text, count_text, ms_text

__all__ = ["diff_view", "profile_view"]

_TOP = 15
_STYLES = {"compute": "magenta", "bandwidth": "cyan", "launch": "yellow", "transfer": "red"}
_PRECISE = 0.01  # changes below are noise of the clock


def profile_view(profile: Profile, top: int = _TOP) -> RenderableType:
    """The layers that take longest, totals, the class of the model and what to do."""
    return Group(_heading(profile), _layers_table(profile, top), Text(), *_summary(profile), *_advice(profile))


def diff_view(before: Profile, after: Profile, pairs: Sequence[Pair], top: int = _TOP) -> RenderableType:
    """The layers that changed most, totals, and what became of those without a partner."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=False)
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=30)
    table.add_column("op", overflow="ellipsis", no_wrap=True, max_width=14)
    for title in ("before", "after", "change"):
        table.add_column(f"{title} ms", justify="right", no_wrap=True)
    ranked = sorted(pairs, key=lambda pair: -abs(pair.change_ms))
    for pair in ranked[:top]:
        table.add_row(*_pair_cells(pair))
    rest = ranked[top:]
    if rest:
        table.add_row(Text(f"{len(rest)} more", style="dim"), "", "", "", _signed(sum(pair.change_ms for pair in rest)))
    old, new = before.model.measured_ms, after.model.measured_ms
    table.add_row("whole call, measured", "", ms_text(old), ms_text(new), _signed(new - old), style="bold")
    return Group(
        Text.assemble("\n", (f"{before.file} → {after.file}", "bold"), f"  {new / old:.2f} of the time"),
        table,
        Text(),
        *_fates(pairs),
    )


def _heading(profile: Profile) -> Text:
    plural = "s" * (profile.threads > 1)
    return Text.assemble(
        "\n",
        (profile.file, "bold"),
        f"  {profile.runtime}, batch {profile.batch}, {profile.threads} thread{plural}\n",
        (profile.device, "dim"),
    )


def _layers_table(profile: Profile, top: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=28, min_width=10)
    table.add_column("op", overflow="ellipsis", no_wrap=True, max_width=13)
    for title in ("ms", "%", "ops", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    ranked = sorted(profile.layers, key=lambda layer: -layer.median_ms)
    for layer in ranked[:top]:
        table.add_row(
            layer.name, layer.op, *_cells([layer]), Text(str(layer.bottleneck), _STYLES[layer.bottleneck.value])
        )
    if ranked[top:]:
        table.add_row(Text(f"{len(ranked) - top} more", style="dim"), "", *_cells(ranked[top:]), "")
    table.add_row(f"{len(ranked)} layers", "", *_cells(ranked), "", style="bold")
    return table


def _cells(layers: Sequence[LayerProfile]) -> list[str]:
    return [
        ms_text(sum(layer.median_ms for layer in layers)),
        f"{100 * sum(layer.share for layer in layers):.1f}",
        count_text(sum(layer.operations for layer in layers)),
        bytes_text(sum(layer.bytes for layer in layers)),
    ]


def _summary(profile: Profile) -> list[Text]:
    model, limits = profile.model, profile.roofline
    where = "of this machine, measured" if limits.source == "measured" else "published for the target"
    return [
        Text(
            f"call {ms_text(model.measured_ms)} ms without the profiler; layers add up to {ms_text(model.sum_ms)} ms "
            f"({model.sum_ms / model.measured_ms:.0%}); profiling itself slows a call by {model.profiling_overhead:.0%}"
        ),
        Text(
            f"limits {where}: {limits.peak_gflops:.0f} GFLOPS, {limits.bandwidth_gb_s:.1f} GB/s, "
            f"{limits.launch_us:.1f} us to start a layer",
            style="dim",
        ),
    ]


def _advice(profile: Profile) -> list[Text]:
    kind = profile.model.bottleneck
    lines = [Text.assemble("bottleneck: ", (str(kind), f"bold {_STYLES[kind.value]}"), f" – {profile.model.advice}")]
    seen: set[str] = set()
    for layer in sorted(profile.layers, key=lambda layer: -layer.median_ms)[:3]:
        if layer.advice not in seen:
            seen.add(layer.advice)
            lines.append(Text.assemble("  ", (layer.name, "bold"), f": {layer.advice}"))
    return lines


def _pair_cells(pair: Pair) -> tuple[str, str, str, str, Text]:
    layer = pair.before or pair.after
    assert layer is not None
    op = layer.op
    if pair.before and pair.after and pair.before.op != pair.after.op:
        op = pair.after.op
    before = ms_text(pair.before.median_ms) if pair.before else "new"
    after = ms_text(pair.after.median_ms) if pair.after else pair.note.split(" ")[0]
    return layer.name, op, before, after, _signed(pair.change_ms)


def _signed(change_ms: float) -> Text:
    style = "green" if change_ms < -_PRECISE else "red" if change_ms > _PRECISE else "dim"
    return Text(f"{change_ms:+.3f}", style)


def _fates(pairs: Sequence[Pair], most: int = 8) -> list[Text]:
    """Layers without a partner, those with the same fate together, those that cost most first."""
    named: dict[str, list[str]] = {}
    for pair in sorted(pairs, key=lambda pair: -abs(pair.change_ms)):
        layer = pair.before or pair.after
        if pair.note and layer is not None:
            named.setdefault(pair.note, []).append(f"{layer.name} ({layer.op})")
    lines = [Text(f"{note}: {_few(names)}", overflow="fold") for note, names in list(named.items())[:most]]
    left = sum(len(names) for names in list(named.values())[most:])
    return [*lines, *([Text(f"{left} more without a partner", style="dim")] if left else [])]


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join([*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])])
