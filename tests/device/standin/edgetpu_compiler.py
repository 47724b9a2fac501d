"""Stands in for Google's `edgetpu_compiler`, which is closed source and for one system only.

Takes the arguments that we give, prints what version 16 printed about a network that is mapped whole, writes the log
and a compiled twin: one operator `edgetpu-custom-op` between the very inputs and outputs. What it maps is not decided
here: everything is.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from pycoral.utils.edgetpu import MARK

from compress.formats.tflite.flatbuffer import kind_name, new_code, pack, schema, unpack

VERSION = "Edge TPU Compiler version 16.0.384591198"


def compiled(content: bytes) -> bytes:
    model = unpack(content)
    graph = model.subgraphs[0]
    operator = schema().OperatorT()
    operator.inputs, operator.outputs = list(graph.inputs), list(graph.outputs)
    model.operatorCodes = []
    operator.opcodeIndex = new_code(model, "CUSTOM", 1)
    model.operatorCodes[operator.opcodeIndex].customCode = b"edgetpu-custom-op"
    graph.operators = [operator]
    return pack(model) + MARK + content


def table(content: bytes) -> str:
    model = unpack(content)
    kinds = Counter(kind_name(model.operatorCodes[op.opcodeIndex]) for op in model.subgraphs[0].operators)
    rows = (f"{kind:<30} {count:<10} Mapped to Edge TPU\n" for kind, count in kinds.items())
    return f"{'Operator':<30} {'Count':<10} Status\n\n{''.join(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", "--show_operations", action="store_true")
    parser.add_argument("-m", "--min_runtime_version", type=int, choices=range(10, 15))
    parser.add_argument("-t", "--timeout_sec", type=int)
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    content = options.model.read_bytes()
    output = Path(f"{options.model.stem}_edgetpu.tflite")
    log = Path(f"{options.model.stem}_edgetpu.log")
    output.write_bytes(compiled(content))
    log.write_text(f"{VERSION}\nInput: {options.model}\nOutput: {output}\n\n{table(content)}")
    total = len(unpack(content).subgraphs[0].operators)
    print(f"""{VERSION}
Started a compilation timeout timer of {options.timeout_sec} seconds.

Model compiled successfully in 577 ms.

Input model: {options.model}
Input size: {len(content) / 1024:.2f}KiB
Output model: {output}
Output size: {output.stat().st_size / 1024:.2f}KiB
On-chip memory used for caching model parameters: {len(content) / 1024:.2f}KiB
On-chip memory remaining for caching model parameters: 7.60MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: {total}
Operation log: {log}
See the operation log file for individual operation details.

{table(content)}Compilation child process completed within timeout period.
Compilation succeeded! """)


if __name__ == "__main__":
    main()
