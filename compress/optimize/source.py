"""Reading the file that is to be optimized, or refusing it with the reason."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from compress.core.errors import StageError
from compress.optimize.facts import all_nodes
from compress.support.quiet import first_line

if TYPE_CHECKING:
    from compress.core.target import Target

__all__ = ["EXECUTABLE_DOMAINS", "opset", "read_source"]

_LONG_DOMAIN = "ai.onnx"

EXECUTABLE_DOMAINS = ("", _LONG_DOMAIN, "ai.onnx.ml", "com.microsoft")
"""Operators that a stock ONNX Runtime has."""

_PROTOBUF_LIMIT_BYTES = 2**31 - 1


def read_source(path: Path, target: Target, stage: str) -> onnx.ModelProto:
    """The model in an ONNX file, with the weights that lie beside it.

    Raises:
        StageError: it is not ONNX, 2 GiB or larger, newer than the target reads, or has operators nothing here runs.
    """
    model = _parse(path)
    _refuse_too_large(model, path, stage)
    _refuse_newer_opset(model, path, target, stage)
    _refuse_unknown_operators(model, path, stage)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        problem = f"the weights beside {path} cannot be read: {first_line(error)}"
        raise StageError(problem, fix="export it again") from error
    _use_short_domain(model)
    return model


def opset(model: onnx.ModelProto) -> int:
    """Version of the ONNX operator set a model uses; 0 if it uses none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _use_short_domain(model: onnx.ModelProto) -> None:
    """The standard's domain is written as nothing or as `ai.onnx`; optimizers only look for the first."""
    opsets = (model.opset_import, *(function.opset_import for function in model.functions))
    nodes = (all_nodes(model.graph), *(function.node for function in model.functions))
    for bearer in itertools.chain(*opsets, *nodes):
        if bearer.domain == _LONG_DOMAIN:
            bearer.domain = ""


def _parse(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise StageError(f"{path} is not a readable ONNX file: {first_line(error)}", fix="export it again") from error
    if not model.graph.node:  # a file of zeros parses as an empty message
        raise StageError(f"{path} is not a readable ONNX file: it has no graph", fix="export it again")
    return model


def _refuse_too_large(model: onnx.ModelProto, path: Path, stage: str) -> None:
    """Every optimizer holds the model as one protobuf message, which cannot be larger."""
    outside = sum(
        ExternalDataInfo(tensor).length or 0 for tensor in model.graph.initializer if uses_external_data(tensor)
    )
    size = path.stat().st_size + outside
    if size > _PROTOBUF_LIMIT_BYTES:
        raise StageError(
            f"stage {stage!r}: {path} has {size / 2**30:.1f} GiB with its weights, optimizers take less than 2 GiB",
            fix=f"~stage.{stage}",
        )


def _refuse_newer_opset(model: onnx.ModelProto, path: Path, target: Target, stage: str) -> None:
    newest = target.onnx_opset_max
    if newest is not None and opset(model) > newest.value:
        raise StageError(
            f"stage {stage!r}: {path} uses opset {opset(model)}, above {newest.value}, "
            f"the newest that {target.title} reads ({newest.source})",
            fix=f"let to_onnx lower it first: +stage@stage.lower=to_onnx stage.lower.before={stage}",
        )


def _refuse_unknown_operators(model: onnx.ModelProto, path: Path, stage: str) -> None:
    functions = {(function.domain, function.name) for function in model.functions}
    for node in all_nodes(model.graph):
        if node.domain not in EXECUTABLE_DOMAINS and (node.domain, node.op_type) not in functions:
            raise StageError(
                f"stage {stage!r}: {path} has the custom operator {node.domain}.{node.op_type} (node {node.name!r}), "
                "which nothing here runs, so no rewriting could be proven",
                fix=f"~stage.{stage}",
            )
