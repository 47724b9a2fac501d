"""What the agent adds to the latency it reports: its timing loop against a bare one, interleaved, on real networks.

    python scripts/bench_agent.py [--json PATH] [--data FOLDER]

Both loops take turns of about a millisecond with the same session, so that drift and neighbours hit both alike.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_common import Bar, arguments, at_most, report
from rich.console import Console

from compress.core.intervals import median_interval
from compress.device.agent.runners.onnxruntime import OnnxRunner
from compress.device.agent.timing import time_calls

ROUNDS = 1500
TURN_SECONDS = 0.001
LIMIT_PERCENT = 2.0

console = Console()


def bare_ms(session: object, feed: dict[str, np.ndarray], count: int) -> float:
    """Milliseconds of one call: the clock is read twice for all of them."""
    start = time.perf_counter()
    for _ in range(count):
        session.run(None, feed)  # type: ignore[attr-defined]
    return (time.perf_counter() - start) * 1e3 / count


def agent_ms(runner: OnnxRunner, feed: dict[str, np.ndarray], count: int) -> float:
    """Mean of what the agent's loop notes for each call; the mean, because the bare loop has nothing else."""
    times: list[float] = []
    time_calls(runner.call, feed, count, times)
    return 1e3 * sum(times) / count


def overhead(path: Path, image: np.ndarray) -> tuple[float, float, float, float]:
    """Median ratio agent / bare, its 95 % interval, and the bare time in ms."""
    runner = OnnxRunner(str(path), {"path": path.name}, 1)
    feed = runner.prepare(image)
    bare_ms(runner.session, feed, 20)
    count = max(1, round(TURN_SECONDS * 1e3 / bare_ms(runner.session, feed, 20)))
    ratios, plain = [], []
    gc.collect()
    gc.disable()  # as the agent does while it measures
    for index in range(ROUNDS):
        turns = [lambda: agent_ms(runner, feed, count), lambda: bare_ms(runner.session, feed, count)]
        first, second = (turn() for turn in (turns if index % 2 == 0 else turns[::-1]))
        agents, bare = (first, second) if index % 2 == 0 else (second, first)
        ratios.append(agents / bare)
        plain.append(bare)
    gc.enable()
    low, high = median_interval(ratios)
    return statistics.median(ratios), low, high, statistics.median(plain)


def networks(data: Path, folder: Path) -> list[tuple[str, Path, np.ndarray]]:
    """MLPerf Tiny's ResNet-8, and a CNN about as fast as the embedded one, the smallest that anybody times here."""
    import torch

    random = np.random.default_rng(0)
    layers = [torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, 2), torch.nn.Flatten()]
    small = torch.nn.Sequential(*layers, torch.nn.Linear(32 * 15 * 15, 10)).eval()
    torch.onnx.export(small, (torch.zeros(1, 1, 32, 32),), folder / "small.onnx", verbose=False)
    found = [("small CNN", folder / "small.onnx", random.standard_normal((1, 1, 32, 32), dtype=np.float32))]
    real = data / "onnx" / "ic_pretrainedResnet.onnx"
    if real.exists():
        found.append(("ResNet-8", real, random.standard_normal((1, 3, 32, 32), dtype=np.float32)))
    return found


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    bars = list[Bar]()
    with tempfile.TemporaryDirectory() as folder:
        for name, path, image in networks(options.data, Path(folder)):
            ratio, low, high, ms = overhead(path, image)
            console.print(f"{name}: {ms:.4f} ms, agent/bare {ratio:.4f} (95 % {low:.4f} to {high:.4f}, {ROUNDS} pairs)")
            bars.append(at_most(f"{name}: the agent adds", 100 * (ratio - 1), LIMIT_PERCENT, "%"))
    report(bars, options.json)


if __name__ == "__main__":
    main()
