"""The accuracy budget of the default command on twelve trained networks, judged on images that it has not seen.

    python scripts/honesty_budget.py [--json PATH] [--data FOLDER] [--weights FOLDER] [--nets resnet20 dscnn ...]

`python -m compress target=raspberry_pi_4` as anyone types it (`measure=quick`), a process for each network. What it
delivers is held against the FP32 source on the test images, every operator as ONNX specifies it, whatever 8-bit
products this processor saturates: the top-1 that is lost is within the budget, as far as the 95 % interval of the
paired difference tells, or the command ended with exit code 1 and its report says so. Where it did, plain quantization
is tried as well: an end with 1 where that keeps accuracy would be absurd. The weights of the torchvision networks come
from `honesty_networks.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import honesty_networks
import numpy as np
from bench_common import Bar, arguments, report
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.budget import Verdict
from compress.core.stage import Splits
from compress.data import CsvData, ImageFolderData, NpzData, load_splits
from compress.formats.onnx.runtime import load as load_onnx
from compress.measure.host import describe_host, int8_trusted
from compress.report.columns import precision_text
from compress.results.report import Report

__all__ = ["NAMES", "budget"]

console = Console(width=150)

_DROP = 1.0
"""Points: the default of `budget.drop`."""

_PLAIN = ("~stage.magnitude", "budget=off")

_OWN = ("resnet20", "resnet44", "mobilenet_v1", "dscnn")
NAMES = (*_OWN, *honesty_networks.NAMES)

_UNTRUSTED = (
    "this processor saturates 8-bit products: top-1 of INT8 files as ONNX Runtime fuses them is untrusted here and not "
    "looked at; figures are of the files computed operator by operator, as the specification says"
)


@dataclass(frozen=True)
class Job:
    """A network as the command takes it; `data` is what `load_splits` is given for the same images."""

    factory: str
    checkpoint: Path
    modules: Path
    input: InputSpec
    data: NpzData | CsvData | ImageFolderData

    def overrides(self) -> list[str]:
        channels, height, width = self.input.shape
        fields = self.data.model_dump(mode="json", exclude_none=True, exclude={"kind", "seed"})
        return [
            "target=raspberry_pi_4",
            "model=factory",
            f"model.factory={self.factory}",
            f"model.checkpoint={self.checkpoint}",
            f"model.input.shape=[{channels},{height},{width}]",
            f"model.input.channel_order={self.input.channel_order}",
            f"model.input.mean=[{','.join(map(str, self.input.mean))}]",
            f"model.input.std=[{','.join(map(str, self.input.std))}]",
            f"data={self.data.kind}",
            *(f"data.{name}={value}" for name, value in fields.items()),
            # the test images are looked at below; where they have a set of their own, a few do for the report
            *(["data.evaluation=32"] if isinstance(self.data, ImageFolderData) else []),
            "measure=quick",
            "measure.latency_runs=5",
            "measure.latency_seconds=0.2",
        ]


def _jobs(data: Path, weights: Path | None, names: Sequence[str], folder: Path) -> dict[str, Job | str]:
    """What runs each network, or why nothing does."""
    missing = f"no weights: python scripts/honesty_networks.py --weights {weights or 'FOLDER'}, then --weights here"
    found: dict[str, Job | str] = {}
    for name in names:
        if not data.is_dir():
            found[name] = f"no data at {data}"
        elif name in _OWN:
            found[name] = _own(name, data, folder)
        elif weights is None or not (weights / f"{name}.pt").is_file():
            found[name] = missing
        else:
            found[name] = _torchvision(name, data, weights, folder)
    return found


def _own(name: str, data: Path, folder: Path) -> Job:
    """A network whose weights lie below `data`."""
    images, weights, audio = data / "images", data / "weights", data / "tasks/audio"
    if name == "dscnn":
        keywords, mfcc = _keyword_images(audio, folder)
        words = NpzData(kind="npz", file=keywords, classes=12, calibration=64, validation=128, finetune=0)
        return Job("nets_audio:DSCNN", audio / "kws_dscnn.pt", audio, mfcc, words)
    if name == "mobilenet_v1":
        nips = CsvData(
            kind="csv",
            file=images / "nips2017/labels_and_attribution.csv",
            path_column="file",
            label_column="imagenet_class_0based",
            classes=1000,
            resize=256,
            calibration=64,
            validation=128,
            finetune=0,
        )
        large = InputSpec((3, 224, 224))
        return Job("nets:MobileNetV1_025", weights / "mobilenetv1_0.25_state_dict.pt", data, large, nips)
    cifar = ImageFolderData(
        kind="image_folder", train=images / "cifar10_train4000", test=images / "cifar10_test500", finetune=0
    )
    stored = {"resnet20": "resnet20-12fca82f.th", "resnet44": "resnet44-014dd654.th"}[name]
    return Job(f"nets:{name}", weights / stored, data, InputSpec((3, 32, 32)), cifar)


def _torchvision(name: str, data: Path, weights: Path, folder: Path) -> Job:
    side = honesty_networks.SIDE
    images = ImageFolderData(
        kind="image_folder",
        train=honesty_networks.held_out(data, folder / "held_out"),
        test=data / "images/cifar10_test500",
        resize=side,
        calibration=64,
        validation=200,
        finetune=0,
    )
    scripts = Path(__file__).resolve().parent
    return Job(f"honesty_networks:{name}", weights / f"{name}.pt", scripts, InputSpec((3, side, side)), images)


def _keyword_images(audio: Path, folder: Path) -> tuple[Path, InputSpec]:
    """The recordings as images of one channel `[N, 49, 10, 1]` in [0, 1], and the normalisation that gives the MFCC."""
    path = folder / "keywords.npz"
    with np.load(audio / "kws01_dev500.npz", allow_pickle=False) as stored:
        mfcc, labels = np.moveaxis(stored["mfcc"], 1, -1).astype(np.float64), stored["labels"].astype(np.int64)
    low, span = float(mfcc.min()), float(mfcc.max() - mfcc.min())
    np.savez(path, images=np.clip((mfcc - low) / span, 0, 1).astype(np.float32), labels=labels)
    return path, InputSpec((1, 49, 10), "gray", (-low / span,), (1 / span,))


# --- one network ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ran:
    """What one command did; `verdict` is of what it delivered, on the test images, None where it delivered nothing."""

    code: int
    error: str
    report: Report | None
    verdict: Verdict | None

    @property
    def refused(self) -> bool:
        """Whether it said in one line that it failed; a traceback ends with exit code 1 as well."""
        return self.code == 1 and self.error.startswith("error: ")

    @property
    def labelled(self) -> bool:
        """Whether the report says that the budget is missed."""
        return self.report is not None and any(outcome.met is False for outcome in self.report.budget)

    @property
    def unjudged(self) -> bool:
        """Whether the report says that the budget cannot be judged."""
        return self.report is not None and all(outcome.met is None for outcome in self.report.budget)

    @property
    def outcome(self) -> str:
        """In words; one that begins with `SILENT` or `BROKEN` must not happen."""
        if self.verdict is None:
            return "refused in one line" if self.refused else "BROKEN: no report"
        if self.code:
            return "exit 1, labelled" if self.refused and self.labelled else "BROKEN: exit without its label"
        if self.unjudged:
            return "not judged, and said"
        if self.verdict.interval_points[1] < -_DROP:
            return "SILENT: beyond the budget with exit code 0"
        return "within the budget" if self.verdict.within(_DROP) else "within the interval"


def _run(job: Job, output: Path, *extra: str) -> _Ran:
    """The command as typed, plus `output=` and `extra`."""
    root = Path(__file__).resolve().parents[1]
    path = [str(root), str(job.modules), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "compress", *job.overrides(), *extra, f"output={output}", "-q"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    error = done.stderr.strip()
    found = sorted(output.glob("raspberry_pi_4/[!.]*/report.json"))
    if not found:
        return _Ran(done.returncode, error, None, None)
    verdict = _on_test_images(job, found[-1].parent)
    return _Ran(done.returncode, error, Report.from_json(found[-1].read_bytes()), verdict)


def _on_test_images(job: Job, run: Path) -> Verdict:
    """The delivered file against the FP32 baseline beside it, every operator as ONNX specifies it."""
    splits = load_splits(job.data, job.input)
    files = [run / f"{stage}.onnx" for stage in ("to_onnx_fp32", "to_onnx")]
    exact, delivered = (_logits(path, job.input, splits) for path in files)
    labels = np.concatenate([batch.labels for batch in splits.evaluation.batches(64)])
    was, now = exact.argmax(1) == labels, delivered.argmax(1) == labels
    noise = float(((exact - delivered).astype(np.float64) ** 2).sum())
    return Verdict(
        samples=len(labels),
        float_correct=int(was.sum()),
        lost=int((was & ~now).sum()),
        gained=int((now & ~was).sum()),
        agreement=float((exact.argmax(1) == delivered.argmax(1)).mean()),
        sqnr_db=10 * float(np.log10((exact.astype(np.float64) ** 2).sum() / max(noise, 1e-30))),
    )


def _logits(path: Path, spec: InputSpec, splits: Splits) -> NDArray[np.float32]:
    run = load_onnx(Artifact(Format.ONNX, path, Precision.INT8, spec), threads=2, fused=False)
    return np.concatenate([run(batch.images) for batch in splits.evaluation.batches(64)])


# --- all of them ------------------------------------------------------------------------------------------------------


def budget(data: Path, names: Sequence[str], folder: Path, weights: Path | None = None) -> list[Bar]:
    """The default recipe on each network; prints a table."""
    table = Table("network", "source", "delivered", "change (95 %)", "SQNR", "zeros", "precision", "exit", "outcome")
    bars: list[Bar] = []
    for name, job in _jobs(data, weights, names or NAMES, folder).items():
        if isinstance(job, str):
            console.print(f"{name}: not measured, {job}")
            bars.append(Bar(f"{name}: delivered within the budget, or exit 1", None, "points", f">= -{_DROP:g}", None))
            continue
        ran = _run(job, folder / name)
        console.print(f"{name}: exit {ran.code}, {ran.outcome} {ran.error}")
        table.add_row(name, *_cells(ran))
        bars += _bars(name, ran)
        if ran.code and ran.verdict is not None:
            plain = _run(job, folder / f"{name}-plain", *_PLAIN)
            table.add_row(f"{name}, plain PTQ", *_cells(plain))
            bars.append(_absurd(name, plain))
    console.print(table)
    if not int8_trusted(describe_host(), reduce_range=False):
        console.print(_UNTRUSTED)
    return bars


def _cells(ran: _Ran) -> Iterator[str]:
    verdict, made = ran.verdict, ran.report
    if verdict is None or made is None:
        yield from ("–", "–", "–", "–", "–", "–", str(ran.code), ran.outcome)
        return
    rows = {row.stage: row for row in made.measurements}
    pruned = rows.get("magnitude")
    low, high = verdict.interval_points
    source = 100 * verdict.float_correct / verdict.samples
    yield f"{source:.1f}"
    yield f"{source + verdict.change_points:.1f}"
    yield f"{verdict.change_points:+.2f} ({low:+.2f} to {high:+.2f})"
    yield f"{verdict.sqnr_db:.1f} dB"
    yield f"{100 * pruned.sparsity.fraction:.1f} %" if pruned and pruned.sparsity else "–"
    yield precision_text(rows["to_onnx"])
    yield str(ran.code)
    yield ran.outcome


def _bars(name: str, ran: _Ran) -> list[Bar]:
    holds = not ran.outcome.startswith(("SILENT", "BROKEN"))
    change = ran.verdict.change_points if ran.verdict else None
    said = f"within {_DROP:g} points as far as the interval tells, or exit 1 and labelled ({ran.outcome})"
    bars = [Bar(f"{name}: top-1 delivered against the source, test images", change, "points", said, holds)]
    if ran.verdict is not None and ran.code == 0 and not ran.unjudged:
        within = ran.verdict.within(_DROP)
        bars.append(Bar(f"{name}: within the budget outright", change, "points", f">= -{_DROP:g}", within))
    return bars


def _absurd(name: str, plain: _Ran) -> Bar:
    """Whether exit 1 was due: plain quantization loses more than the budget, too, as far as the interval tells."""
    if plain.verdict is None:
        return Bar(f"{name}: plain quantization", None, "points", "runs", False)
    low, high = plain.verdict.interval_points
    bar = f"not within {_DROP:g} points for certain (95 %: {low:.2f} to {high:.2f}), where the command ends with 1"
    return Bar(f"{name}: plain quantization", plain.verdict.change_points, "points", bar, low < -_DROP)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="folder of honesty_networks.py")
    parser.add_argument("--nets", nargs="+", default=[], choices=NAMES, help="all by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(budget(options.data, options.nets, Path(folder), options.weights), options.json)


if __name__ == "__main__":
    main()
