"""Numbers about an artifact at one stage boundary, and what keeps one from being measured or trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from compress.core.artifact import Format, Precision
from compress.core.quantities import Above, Amount, Count, Known, Magnitude, Milliseconds, Share

__all__ = [
    "Accuracy",
    "Caveat",
    "CaveatKind",
    "Fidelity",
    "IntegerShare",
    "Latency",
    "LatencyRatio",
    "Measurement",
    "Race",
    "Sparsity",
]


@dataclass(frozen=True)
class Sparsity:
    """Exact zeros among the weights of convolutions and linear layers (biases and normalisation excluded)."""

    zeros: Count
    total: Count
    per_layer: Mapping[str, Share] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        return self.zeros / self.total if self.total else 0.0


@dataclass(frozen=True)
class Latency:
    """Time of one inference call of `batch` samples, on the machine named in `device`."""

    median_ms: Milliseconds
    p90_ms: Milliseconds
    p99_ms: Milliseconds
    min_ms: Milliseconds
    runs: Count
    warmup: Count
    threads: Count
    batch: Count
    device: str


@dataclass(frozen=True)
class LatencyRatio:
    """Time of one file or module over that of another, timed in turn on the same input.

    Attributes:
        ratio: median over pairs of calls; below 1 means that the first is faster.
        low, high: 95 % interval.
        pairs: number of pairs of calls.
        doubt: what the machine did to the clock, and what the ratio is of then; empty where nothing did.
    """

    ratio: Above
    low: Amount
    high: Amount
    pairs: Count
    doubt: str = ""


@dataclass(frozen=True)
class Race:
    """A stage's output timed in turn with that of an earlier stage, so that a machine's drift hits both alike.

    Attributes:
        against: the earlier stage.
        latency: of this stage over the earlier one.
    """

    against: str
    latency: LatencyRatio


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy as fractions of 1, with the 95 % Wilson score interval (Wilson 1927).

    Attributes:
        chance: share that would be right if the answers had nothing to do with the labels: the sum over classes of
            (share of answers) (share of labels), as in Cohen 1960 (kappa). None in reports that did not record it.
    """

    top1: Share
    low: Share
    high: Share
    samples: Count
    chance: Share | None = None


@dataclass(frozen=True)
class Fidelity:
    """Closeness to the FP32 source on the same samples.

    Attributes:
        agreement: share of samples whose arg-max equals the source's.
        sqnr_db: 10 log10(sum of squared source logits / sum of squared differences), over all samples; inf if equal.
        max_abs_error: largest absolute difference of any logit.
        samples: number of samples compared.
    """

    agreement: Share
    sqnr_db: Known
    max_abs_error: Magnitude
    samples: Count


@dataclass(frozen=True)
class IntegerShare:
    """Share of a file's arithmetic and weights that are integers, each in [0, 1]; None where there is none.

    Attributes:
        macs: of the multiply-accumulates.
        weights: of the stored weights.
    """

    macs: Share | None
    weights: Share | None

    @property
    def mostly(self) -> bool:
        """Tell whether at least half of the arithmetic (of the weights, where none is known) is in integers."""
        share = self.weights if self.macs is None else self.macs
        return share is not None and share >= 0.5


class CaveatKind(str, Enum):
    """Ways in which a figure falls short of a measurement on the thing it names."""

    EMULATED = "emulated"  # the host imitates the arithmetic
    ESTIMATE = "estimate"  # computed from a model, not timed
    UNTRUSTED = "untrusted"  # the host may compute another result than the device
    MISSING = "missing"  # there is no figure

    def __str__(self) -> str:
        return self.value


_OPENINGS = {
    CaveatKind.EMULATED: "emulated: ",
    CaveatKind.ESTIMATE: "estimate: ",
    CaveatKind.UNTRUSTED: "not to be trusted: ",
    CaveatKind.MISSING: "",
}


@dataclass(frozen=True)
class Caveat:
    """Caveat that has to be known of a figure before it is read.

    Attributes:
        why: the reason, for people; nothing is decided by it.
    """

    kind: CaveatKind
    why: str

    @property
    def sentence(self) -> str:
        """The reason with the kind before it, as the notes of a report show it."""
        return f"{_OPENINGS[self.kind]}{self.why}"


@dataclass(frozen=True)
class Measurement:
    """Figures measured at one stage boundary. `None` means not measured; `caveats` says why, by field name.

    Attributes:
        stage: the stage whose output this is (`source` for the model as loaded).
        runtime: what executed the model for accuracy and latency, with its version.
        size_bytes: of the file; a torch module is measured as a state-dict file.
        integers: what of an INT8 file is in integers; None for others.
        race: against the earliest stage that ran in the same runtime and setting; None where there is none.
        seconds: wall time of the stage itself, measuring excluded.
        peak_rss_bytes: highest resident memory of the process while the stage ran.
        reused: taken from an earlier run with identical inputs.
        handed_on: the stage only looked: its output is the one it took, and so are the figures.
        feed: the stage whose output this stage took (what a change is measured against); None for `source`.
        notes: what the reader is told, a title and a sentence each: the stage's own notes and every caveat.
        caveats: what has to be known of a figure or of its absence, by field name; what a program decides by.
    """

    stage: str
    format: Format
    precision: Precision
    runtime: str
    size_bytes: Count | None = None
    size_gzip_bytes: Count | None = None
    parameters: Count | None = None
    macs: Count | None = None
    sparsity: Sparsity | None = None
    integers: IntegerShare | None = None
    latency: Latency | None = None
    race: Race | None = None
    accuracy: Accuracy | None = None
    fidelity: Fidelity | None = None
    seconds: Amount | None = None
    peak_rss_bytes: Count | None = None
    reused: bool = False
    handed_on: bool = False
    feed: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    caveats: Mapping[str, Caveat] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sentences = {quantity: caveat.sentence for quantity, caveat in self.caveats.items()}
        object.__setattr__(self, "notes", {**self.notes, **sentences})

    def why_absent(self, quantity: str) -> str:
        """The reason why there is no such figure; empty where none was given."""
        caveat = self.caveats.get(quantity)
        return caveat.why if caveat else ""
