"""Changes by each stage, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compress.core.budget import Outcome, in_points
from compress.core.measurement import Measurement
from compress.measure.comparable import comparable_latency, label
from compress.profile.slower import Slower
from compress.report.text import factor_text, ms_text, percent_text, points_text
from compress.results.report import Report

__all__ = [
    "SLOWER",
    "budget_lines",
    "budget_word",
    "feed_of",
    "final_row",
    "grouped_notes",
    "in_words",
    "left_out_notes",
]
__all__ += ["measured_on", "slower_lines", "warnings"]

SLOWER = "Why INT8 is slower than FP32 here"
"""Title of `slower_lines`."""

_SATURATES = (
    "computed operator by operator, as a device that does not saturate 8-bit products: the table's top-1 is of this "
    "processor, which does"
)

_VISIBLE = 0.02  # relative change of size, or of time in a race, that is worth a word
_CLEAR_SPEED = 1.05  # smaller ratios of unpaired medians are noise on a shared machine


def feed_of(rows: Sequence[Measurement], row: Measurement) -> Measurement | None:
    """The row whose output `row`'s stage took; the row above if it is not recorded; None for the first row."""
    position = rows.index(row)
    if position == 0:
        return None
    named = (earlier for earlier in rows[:position] if earlier.stage == row.feed)
    return next(named, rows[position - 1])


def final_row(rows: Sequence[Measurement]) -> Measurement:
    """Row of what the run delivers: its last exported file, or the last module if nothing was exported."""
    made = [row for row in rows if not row.handed_on]
    exported = [row for row in made if row.format.value != "torch" and row.size_bytes is not None]
    return (exported or made or rows)[-1]


def measured_on(report: Report) -> str:
    """Origin of the times, said before any of them is read."""
    rows = report.measurements
    timed = next((row.latency for row in rows if row.latency), None)
    setting = "" if timed is None else f", batch {timed.batch}, {timed.threads} thread{'s' * (timed.threads > 1)}"
    samples = next((row.accuracy.samples for row in rows if row.accuracy), None)
    evaluated = "" if samples is None else f"; accuracy on {samples} images"
    return f"measured on this host ({report.host.label}), not on the device{setting}{evaluated}"


def budget_lines(outcomes: Iterable[Outcome]) -> list[tuple[str, str]]:
    """`(held, "to_onnx: 1 points ... may be lost; top-1 -0.8 points on 128 validation images (...)")` for each file."""
    return [(budget_word(outcome), _budget_sentence(outcome)) for outcome in outcomes]


def budget_word(outcome: Outcome) -> str:
    """`off`, `held`, `MISSED` or `not judged`."""
    if outcome.drop is None:
        return "off"
    return {True: "held", False: "MISSED", None: "not judged"}[outcome.met]


def _budget_sentence(outcome: Outcome) -> str:
    parts = [] if outcome.drop is None else [f"{outcome.drop:g} points of top-1 against the source may be lost"]
    if outcome.verdict is not None:
        parts.append(in_points(outcome.verdict).replace("-", "\N{MINUS SIGN}").replace("top\N{MINUS SIGN}1", "top-1"))
    parts += [outcome.reason] if outcome.reason else []
    parts += [_SATURATES] if outcome.saturates else []
    return f"{outcome.stage}: {'; '.join(parts)}" if outcome.stage else "; ".join(parts)


def slower_lines(slower: Iterable[Slower]) -> list[tuple[str, str]]:
    """Layers whose INT8 files lose time against FP32: `(layer, "0.12 ms, 0.04 in FP32: why")`, then advice."""
    lines = []
    for one in slower:
        lines.append((one.stage, f"takes {factor_text(one.ratio, 1)} longer than {one.against} on this host:"))
        lines += [
            (part.name, f"{ms_text(part.int8_ms)} ms, {ms_text(part.fp32_ms)} ms in FP32: {part.cause}")
            for part in one.parts
        ]
        lines += [("what to do", advice) for advice in one.advice]
    return lines


def grouped_notes(rows: Iterable[Measurement]) -> list[tuple[str, str]]:
    """Reasons and caveats, equal ones once: `(quantity, "reason (stage, stage)")`."""
    stages: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for quantity, reason in row.notes.items():
            stages.setdefault((quantity, reason), []).append(row.stage)
    return [(quantity, f"{reason} ({', '.join(names)})") for (quantity, reason), names in stages.items()]


def left_out_notes(report: Report) -> list[tuple[str, str]]:
    """Stages of the recipe that did not run: `(stage, reason)`."""
    return [(absent.stage, f"left out of the recipe: {absent.reason}") for absent in report.left_out]


def warnings(report: Report) -> list[tuple[str, str]]:
    """Warnings of what makes every figure of the run doubtful, to be said before any of them: `(about, sentence)`."""
    doubt = report.at_chance
    if doubt is None:
        return []
    return [
        (
            "labels do not fit this model?",
            f"the source is right on {percent_text(doubt.top1)} % of {doubt.samples} images, and answers that have "
            f"nothing to do with the labels would be on {percent_text(doubt.chance)} %: check the data set, the order "
            "of its classes, the weights, and model.input (mean, std, channel_order)",
        )
    ]


def in_words(rows: Sequence[Measurement]) -> list[tuple[str, str]]:
    """One plain sentence per stage after the source: `(stage, sentence)`."""
    return [(row.stage, _sentence(rows, row)) for row in rows[1:]]


def _sentence(rows: Sequence[Measurement], row: Measurement) -> str:
    if row.size_bytes is None and row.latency is None:
        return row.why_absent("latency")
    source, feed = rows[0], feed_of(rows, row) or rows[0]
    zeros = _zeros_clause(row, feed)
    clauses = [
        _size_clause(row, source),
        _macs_clause(row, feed),
        zeros or _speed_clause(rows, row),
        _accuracy_clause(row, source),
    ]
    return "; ".join(clause for clause in clauses if clause)


def _size_clause(row: Measurement, source: Measurement) -> str | None:
    if row.size_bytes is None or not source.size_bytes:
        return None
    if row.size_bytes < source.size_bytes * (1 - _VISIBLE):
        return f"{factor_text(source.size_bytes, row.size_bytes)} smaller than the source"
    if row.size_bytes > source.size_bytes * (1 + _VISIBLE):
        return f"{factor_text(row.size_bytes, source.size_bytes)} larger than the source"
    return "same size as the source"


def _macs_clause(row: Measurement, feed: Measurement) -> str | None:
    if not row.macs or not feed.macs or abs(row.macs / feed.macs - 1) < _VISIBLE:
        return None
    fewer = row.macs < feed.macs
    large, small = max(row.macs, feed.macs), min(row.macs, feed.macs)
    return f"{factor_text(large, small)} {'fewer' if fewer else 'more'} MACs than {feed.stage}"


def _zeros_clause(row: Measurement, feed: Measurement) -> str | None:
    """A stage that made zeros and left the arithmetic as it was has not made anything faster, whatever noise says."""
    if row.sparsity is None or feed.sparsity is None or row.macs != feed.macs or row.runtime != feed.runtime:
        return None
    if row.sparsity.fraction < feed.sparsity.fraction + 0.005 or row.precision is not feed.precision:
        return None
    made = f"{percent_text(row.sparsity.fraction)} % zeros, not speed: dense runtimes run the same arithmetic"
    if row.size_gzip_bytes and feed.size_gzip_bytes and row.size_gzip_bytes < feed.size_gzip_bytes * (1 - _VISIBLE):
        return f"{made}; gzip is where they pay ({factor_text(feed.size_gzip_bytes, row.size_gzip_bytes)} smaller)"
    return f"{made}, and gzip does not gain either"


def _speed_clause(rows: Sequence[Measurement], row: Measurement) -> str | None:
    if row.latency is None:
        return None
    mark = label(row, "latency")
    if mark:
        return f"its time here is {'an estimate' if mark == 'estimate' else mark} and says nothing about speed"
    base = comparable_latency(rows, row)
    if base is None or base.latency is None:
        return f"speed not comparable: no earlier stage ran in {row.runtime}"
    against = f"{base.stage} in the same runtime"
    if row.race and row.race.against == base.stage:
        low, ratio, high = row.race.latency.low, row.race.latency.ratio, row.race.latency.high
        faster, slower = ratio < 1 - _VISIBLE and high < 1, ratio > 1 + _VISIBLE and low > 1
    else:
        new, old = row.latency, base.latency
        ratio = new.median_ms / old.median_ms
        faster = ratio * _CLEAR_SPEED < 1 and new.p90_ms < old.median_ms
        slower = ratio > _CLEAR_SPEED and old.p90_ms < new.median_ms
    if faster:
        return f"{factor_text(1, ratio)} faster than {against}"
    if slower:
        return f"worse: {factor_text(ratio, 1)} slower than {against}"
    return f"no speed-up over {against}"


def _accuracy_clause(row: Measurement, source: Measurement) -> str | None:
    new, old = row.accuracy, source.accuracy
    agreement = f"agrees with the source on {percent_text(row.fidelity.agreement)} %" if row.fidelity else None
    if new is None or old is None:
        return agreement
    points = points_text(new.top1, old.top1)
    if points == "same":
        verdict = "top-1 unchanged"
    elif new.low <= old.top1 <= new.high:
        verdict = f"top-1 {points} points, inside the 95 % interval"
    else:
        verdict = f"{'worse' if new.top1 < old.top1 else 'better'}: top-1 {points} points"
    return f"{verdict}, {agreement}" if agreement else verdict
