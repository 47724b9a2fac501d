"""Budget of multiply-accumulates, parameters or milliseconds: shared by every stage that makes a network smaller.

Free of torch at import, so that a configuration can be checked without loading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, computed_field

from compress.core.artifact import Format, Precision
from compress.core.errors import Refusal
from compress.core.stage import Context, Stage, maker_of
from compress.core.target import Target
from compress.support.files import sha256_file
from compress.support.reading import is_file

if TYPE_CHECKING:
    from compress.pruning.cost import Cost
    from compress.pruning.shapes import LayerShape

__all__ = ["Budget", "BudgetStage"]

_NAMES = {"macs": "MACs", "parameters": "parameters", "latency": "latency"}


@dataclass(frozen=True)
class Budget:
    """Budget of a network: how much of what may be left.

    Attributes:
        cost: of one layer; a network costs the sum.
        limit: highest cost of the network, in the unit of `cost`.
        before: cost of the network as it came.
        unit: what the cost is called.
        estimated: whether the cost was computed from a device's peaks instead of counted or measured.
    """

    cost: Cost
    limit: float
    before: float
    unit: str
    estimated: bool

    def describe(self, after: float) -> str:
        """`49.5% of the MACs left`."""
        text = f"{after / self.before:.1%} of the {self.unit} left"
        if self.unit != _NAMES["latency"]:
            return text
        kind = "estimated from the target's peaks" if self.estimated else "by the measured layer times"
        return f"{text} ({self.before:.3g} to {after:.3g} ms, {kind})"


class BudgetStage(Stage):
    """Base of the stages that cut until a budget is met.

    Attributes:
        keep: share of the cost that is left.
        of: the cost: `macs`, `parameters`, or `latency` on the target (estimated, or from `layer_times`).
        latency_ms: absolute budget in milliseconds on the target instead of `keep`; implies `of=latency`.
        layer_times: JSON file `{"<layer>": <ms>}` measured on a device, in place of the estimate.
        precision: in which the layers will run there, for the estimate.
        exclude: names or patterns of layers or enclosing modules to leave alone.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the layers of an ONNX file are fixed; prune the PyTorch model it came from"

    keep: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    of: Literal["macs", "parameters", "latency"] = "macs"
    latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    layer_times: Path | None = None
    precision: Precision = Precision.FP32
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def layer_times_sha256(self) -> str | None:
        """Checksum of the file's content, so that a stored result goes stale with it."""
        if self.layer_times is None or not is_file(self.layer_times):
            return None
        return sha256_file(self.layer_times)

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32, and a latency budget that nothing is known about."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} prunes fp32 weights, but its input is already {precision}",
                fix=f"prune first: stage.{name}.before={maker_of(precision)}",
            )
        if self._by_latency and self.layer_times is None and self.precision not in target.peak_flops:
            peaks = sorted(p.value for p in target.peak_flops)
            raise Refusal(
                f"stage {name!r}: the peak {self.precision} arithmetic of {target.title} is not known "
                f"(known: {', '.join(peaks) or 'none'}), so its latency cannot be estimated",
                fix=f"stage.{name}.of=macs, {''.join(f'stage.{name}.precision={peak}, ' for peak in peaks)}"
                f"or measured stage.{name}.layer_times",
            )

    def budget(self, shapes: Mapping[str, LayerShape], context: Context, *, lanes: int) -> Budget:
        """Return what these layers may cost.

        Args:
            lanes: channels that kernels compute at a time.

        Raises:
            StageError: `latency_ms` is not below what the network needs already.
            ConfigError: `layer_times` cannot be used.
        """
        from compress.core.errors import StageError
        from compress.pruning.cost import total

        cost = self._cost(shapes, context.target, lanes)
        before = total(cost, shapes.values())
        limit = self.keep * before if self.latency_ms is None else self.latency_ms
        if limit >= before:
            raise StageError(
                f"stage {context.name!r}: latency_ms={limit:g} is met already, the model takes {before:.3g} ms "
                f"({'estimated' if self.layer_times is None else 'measured'})",
                fix=f"~stage.{context.name}, or a lower latency_ms",
            )
        unit = _NAMES["latency" if self._by_latency else self.of]
        return Budget(cost, limit, before, unit, self._by_latency and self.layer_times is None)

    @property
    def _by_latency(self) -> bool:
        return self.of == "latency" or self.latency_ms is not None

    def _cost(self, shapes: Mapping[str, LayerShape], target: Target, lanes: int) -> Cost:
        from compress.pruning.cost import Estimated, Measured, macs, parameters, read_layer_times

        if not self._by_latency:
            return macs if self.of == "macs" else parameters
        if self.layer_times is None:
            return Estimated.of(target, self.precision, lanes)
        known = self.precision in target.peak_flops
        scaling = Estimated.of(target, self.precision, lanes) if known else macs
        return Measured(read_layer_times(self.layer_times, shapes), shapes, scaling)
