"""Pruning that makes the device faster: real training on CIFAR-10, structured pruning of many networks, 2:4.

    python scripts/bench_pruning.py --parts resnet44 resnet20 torchvision two_four --output FOLDER  # make and judge
    python scripts/bench_pruning.py --from FOLDER                                                    # judge again

Making trains on a CUDA GPU where there is one and writes ONNX files and `<part>.json` (what was made, with times) to
the folder. Judging reads them: accuracy of the exported files on the 500 test images in ONNX Runtime, zeros, gzip
sizes, and latency at one thread, paired and interleaved with the unpruned file. So training and timing may be on
different hosts.

`--variant` chooses how ResNet-44 loses half of its MACs; each is trained apart and the best one on the validation
images (never the test images) counts. `--engine-times FILE` adds TensorRT times measured elsewhere for the 2:4 files:
{"dense_ms": 1.0, "sparse_ms": 1.0, "engine": "H100, TensorRT 8.5.3, FP16, batch 32"}.
"""

from __future__ import annotations

from pathlib import Path

from bench_common import arguments, report
from pruning_bench.judge import judge
from pruning_bench.make import VARIANTS, make
from pruning_bench.workshop import PARTS, Effort, console

from compress.measure.host import describe_host


def main() -> None:
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=["steps"], help="of ResNet-44")
    parser.add_argument("--output", type=Path, default=Path("bench_pruning"), help="folder for what is made")
    parser.add_argument("--from", dest="made", type=Path, help="judge what was made in this folder, make nothing")
    parser.add_argument("--make-only", action="store_true", help="leave judging for later")
    parser.add_argument("--engine-times", type=Path, help="JSON with TensorRT times of the 2:4 files")
    parser.add_argument("--rate", type=float, help="highest learning rate of the pruning's trainings")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the epochs, to try the bench out")
    options = parser.parse_args()
    data, found = options.data.resolve(), []
    for part in options.parts:
        folder = (options.made or options.output).resolve() / part
        if options.made is None:
            make(part, data, folder, options.variant, Effort(options.scale, options.rate))
        if not options.make_only:
            found += judge(part, data, folder, options.engine_times)
    if not options.make_only:
        console.print(f"latency on {describe_host().label}, 1 thread")
        report(found, options.json)


if __name__ == "__main__":
    main()
