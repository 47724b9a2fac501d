"""Whether anything wrong leaves in silence: the default command on real networks, judged on images it has not seen.

    python scripts/bench_honesty.py [--json PATH] [--data FOLDER] [--sections budget gates imports padding cost]

Every section is a function that gives bars; all but `budget` are those of `honesty_*.py`. `budget` runs
`python -m compress target=raspberry_pi_4` as anyone types it on each network (`--nets resnet20 dscnn`) and holds what
it delivers against the FP32 source on the test images: the top-1 that is lost is within the budget, as far as the
95 % interval of the paired difference tells, or the command ended with exit code 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_common import Bar, arguments, report
from honesty_cost import cost_bars
from honesty_gates import gate_costs
from honesty_import import bars as import_bars
from honesty_import import forms
from honesty_import import judge as judge_form
from honesty_padding import padding_bars
from numpy.typing import NDArray
from rich.console import Console

from compress.budget import Verdict
from compress.data import CsvData, ImageFolderData, NpzData, load_splits
from compress.report.json_report import Report
from compress.runtimes.onnx import load as load_onnx
from compress.stage import Splits
from compress.types import Artifact, Format, InputSpec, Precision

console = Console(width=120)

_DROP = 1.0
"""Points: the default of `budget.drop`."""


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
            "measure.latency_runs=20",
        ]


def jobs(data: Path, folder: Path) -> dict[str, Job]:
    """The networks whose weights lie below `data`."""
    images, weights, audio = data / "images", data / "weights", data / "tasks/audio"
    cifar = ImageFolderData(kind="image_folder", train=images / "cifar10_train4000", test=images / "cifar10_test500")
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
    keywords, mfcc = keyword_images(audio, folder)
    words = NpzData(kind="npz", file=keywords, classes=12, calibration=64, validation=128, finetune=0)
    small, large = InputSpec((3, 32, 32)), InputSpec((3, 224, 224))
    found = {
        "resnet20": Job("nets:resnet20", weights / "resnet20-12fca82f.th", data, small, cifar),
        "resnet44": Job("nets:resnet44", weights / "resnet44-014dd654.th", data, small, cifar),
        "mobilenet_v1": Job("nets:MobileNetV1_025", weights / "mobilenetv1_0.25_state_dict.pt", data, large, nips),
        "dscnn": Job("nets_audio:DSCNN", audio / "kws_dscnn.pt", audio, mfcc, words),
    }
    return {name: job for name, job in found.items() if job.checkpoint.is_file()}


def keyword_images(audio: Path, folder: Path) -> tuple[Path, InputSpec]:
    """The recordings as images of one channel `[N, 49, 10, 1]` in [0, 1], and the normalisation that gives the MFCC."""
    path = folder / "keywords.npz"
    with np.load(audio / "kws01_dev500.npz", allow_pickle=False) as stored:
        mfcc, labels = np.moveaxis(stored["mfcc"], 1, -1).astype(np.float64), stored["labels"].astype(np.int64)
    low, span = float(mfcc.min()), float(mfcc.max() - mfcc.min())
    np.savez(path, images=np.clip((mfcc - low) / span, 0, 1).astype(np.float32), labels=labels)
    return path, InputSpec((1, 49, 10), "gray", (-low / span,), (1 / span,))


def run_command(job: Job, output: Path) -> tuple[int, str]:
    """Exit code and standard error of the command as typed, plus `output=`."""
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), str(job.modules)])
    done = subprocess.run(
        [sys.executable, "-m", "compress", *job.overrides(), f"output={output}", "-q"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.strip()


# --- budget -----------------------------------------------------------------------------------------------------------


def budget(data: Path, names: Sequence[str], folder: Path) -> list[Bar]:
    """The default recipe on each network."""
    chosen = {name: job for name, job in jobs(data, folder).items() if not names or name in names}
    return [bar for name, job in chosen.items() for bar in _budget_of(name, job, folder / name)]


def _budget_of(name: str, job: Job, output: Path) -> list[Bar]:
    code, error = run_command(job, output)
    console.print(f"{name}: exit {code} {error}")
    found = sorted(output.glob("raspberry_pi_4/[!.]*/report.json"))
    if not found:
        return [
            Bar(
                f"{name}: delivered within the budget, or exit 1",
                None,
                "points",
                f">= -{_DROP:g}",
                _refused(code, error),
            )
        ]
    verdict = on_test_images(job, found[-1].parent)
    low, high = verdict.interval_points
    outcome = Report.from_json(found[-1].read_bytes())
    zeros = next(
        (row.sparsity.fraction for row in outcome.measurements if row.stage == "magnitude" and row.sparsity), 0
    )
    console.print(
        f"{name}: test top-1 {verdict.change_points:+.2f} points on {verdict.samples} images (95 % {low:+.2f} to "
        f"{high:+.2f}), SQNR {verdict.sqnr_db:.1f} dB, {zeros:.1%} zeros"
    )
    holds = _refused(code, error) or (code == 0 and high >= -_DROP)
    bar = f">= -{_DROP:g} (95 %: {low:.2f} to {high:.2f}), or exit 1 (exit {code})"
    return [
        Bar(f"{name}: top-1 delivered against the source, test images", verdict.change_points, "points", bar, holds),
        Bar(f"{name}: within the budget outright", verdict.change_points, "points", f">= -{_DROP:g}",
            verdict.change_points >= -_DROP),
        Bar(f"{name}: zeros kept by magnitude", 100 * zeros, "%", "for information", None),
    ]  # fmt: skip


def _refused(code: int, error: str) -> bool:
    """Whether the command said in one line that it failed; a traceback ends with exit code 1 as well."""
    return code == 1 and error.startswith("error: ")


def on_test_images(job: Job, run: Path) -> Verdict:
    """The delivered file against the FP32 baseline beside it, every operator as ONNX specifies it, image by image."""
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


# ----------------------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Path, Sequence[str], Path], list[Bar]]] = {
    "budget": budget,
    "gates": lambda data, nets, folder: gate_costs(data),
    "imports": lambda data, nets, folder: import_bars([judge_form(form) for form in forms()]),
    "padding": lambda data, nets, folder: padding_bars(),
    "cost": lambda data, nets, folder: cost_bars(data),
}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--nets", nargs="+", default=[], help="networks of the section budget; all by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bars = [bar for name in options.sections for bar in SECTIONS[name](options.data, options.nets, Path(folder))]
    report(bars, options.json)


if __name__ == "__main__":
    main()
