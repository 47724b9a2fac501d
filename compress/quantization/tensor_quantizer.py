"""The modules that prepare puts wherever a tensor is quantized: they observe, and become explicit Q/DQ on convert.

They are observers to PT2E's prepare, and write the pair themselves: integer weights then keep the name of the parameter
they replace, with `<name>_scale` and `<name>_zero_point` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

import torch
from torch import fx
from torch.fx.node import Argument

from compress.core.errors import StageError
from compress.graph.capture import bind, constant, parameter_name
from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver
from compress.quantization.policy import FixedRange
from compress.quantization.pt2e import ObserverBase

__all__ = ["BiasQuantizer", "Follower", "Mode", "TensorQuantizer", "one_dequantize_per_reader"]

_ops = torch.ops.quantized_decomposed
_BIAS_GRID = Grid(torch.int32, -(2**31), 2**31 - 1, symmetric=True)
_LARGEST_BIAS = 2**30  # half of int32: the other half is left to the sum of products that the bias starts from
_ANYTHING = (-math.inf, math.inf)


class Mode(str, Enum):
    """Mode of a quantizer: what it does with the values that pass."""

    OBSERVE = "observe"  # look, and hand them on as they are
    SIMULATE = "simulate"  # round them to the grid, as the integers will
    OFF = "off"  # nothing: the tensor stays in float


class TensorQuantizer(ObserverBase):
    """Range and grid of one activation or weight.

    Scale and zero point are buffers once they are found: they move with the module and are in its `state_dict()`.

    Attributes:
        name: the parameter (`layer1.0.conv1.weight`) or the layer whose output it is; set once the graph is prepared.
        grid: the integers.
        axis: channel axis for one scale per channel, None for one scale.
        follows: (a weight) while simulating, take the range of the weight as it is now, for one that is being trained.
        joins: it is the output of a join whose inputs may take over its grid (`joins`).
    """

    _scale: torch.Tensor | None
    _zero_point: torch.Tensor | None

    def __init__(
        self,
        *,
        grid: Grid,
        observer: Callable[[], RangeObserver],
        axis: int | None = None,
        fixed: FixedRange | None = None,
        **_pt2e: object,  # PT2E repeats the specification's fields here; `grid` and `axis` already say them
    ) -> None:
        super().__init__(dtype=grid.dtype)
        self.name = ""
        self.mode = Mode.OBSERVE
        self.grid = grid
        self.axis = axis
        self.follows = False
        self.joins = False
        self._make_observer = observer
        self._observer = observer()
        self._summed = True
        self._fixed = fixed
        self._limits = _ANYTHING
        self._is_constant = False
        self._batches = 0
        self._smallest = torch.zeros(())
        self.register_buffer("_scale", None)  # a search is worth keeping
        self.register_buffer("_zero_point", None)

    def describe(
        self, name: str, *, limits: tuple[float, float], is_constant: bool, summed: bool, joins: bool = False
    ) -> None:
        """Say which tensor this is.

        Args:
            name: see the class.
            limits: values outside make no difference to any reader (below -3 to a hardswish): not represented.
            is_constant: a weight, which is observed only once.
            summed: a layer reads it; false of an output.
            joins: see the class.
        """
        self.name, self._limits, self._is_constant, self._summed = name, limits, is_constant, summed
        self.joins = joins
        self._observer.summed = summed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mode is Mode.SIMULATE:
            if self.follows:
                self.refit(x)
            return self.simulate(x)
        if self.mode is Mode.OBSERVE and not (self._is_constant and self._batches) and x.numel():
            self._batches += 1
            self._observe(x.detach())
        return x

    def simulate(self, x: torch.Tensor) -> torch.Tensor:
        """`x` after quantizing and dequantizing; gradients pass the rounding (Bengio et al. 2013), not the clipping."""
        scale, zero_point = self.calculate_qparams()
        if self.axis is not None:
            shape = [-1 if axis == self.axis else 1 for axis in range(x.ndim)]
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        return self.grid.round_trip(x, scale, zero_point)

    @property
    def is_constant(self) -> bool:
        """Tell whether this is a weight."""
        return self._is_constant

    @property
    def is_fixed(self) -> bool:
        """Tell whether a kernel has its grid built in."""
        return self._fixed is not None

    def own_range(self) -> tuple[float, float]:
        """Smallest and largest real value of the (one) range, whatever grid was adopted."""
        if self._fixed is not None:
            ends = (self.grid.minimum, self.grid.maximum)
            low, high = ((end - self._fixed.zero_point) * self._fixed.scale for end in ends)
            return low, high
        lows, highs = self._observer.range(self.grid)
        return float(lows.min()), float(highs.max())

    def adopt(self, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
        """Have this grid and not that of the own range, until more is observed."""
        self.calculate_qparams()  # a tensor that was never seen has none to give up
        if self._fixed is None:
            self._scale, self._zero_point = scale, zero_point

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32) and zero point (int64), `[]` or `[channels]`.

        Raises:
            StageError: no calibration batch has passed.
        """
        if self._fixed is not None:
            return torch.tensor(self._fixed.scale), torch.tensor(self._fixed.zero_point)
        if not self._batches:
            raise StageError(f"{self.name!r} saw no calibration data", fix="give the calibration split images")
        if self._scale is None or self._zero_point is None:
            self._find(self._observer)
        assert self._scale is not None
        assert self._zero_point is not None
        return torch.maximum(self._scale, self._smallest), self._zero_point

    def forget(self) -> None:
        """Start over: the next values observed alone decide the range."""
        self._observer, self._batches = self._new_observer(), 0
        self._scale = self._zero_point = None

    def refit(self, weight: torch.Tensor) -> None:
        """Take the range of this tensor alone. A NaN is not looked for: training meets it in the loss."""
        observer, values = self._new_observer(), self._by_channel(weight.detach())
        low, high = _extremes(values)
        observer.observe(values, low, high)
        self._find(observer)

    def raise_scale(self, smallest: torch.Tensor) -> None:
        """Keep the scale (of a symmetric grid) at least at `smallest`, `[]` or `[channels]`."""
        self._smallest = torch.maximum(self._smallest, smallest)

    def convert(self, model: fx.GraphModule, node: fx.Node) -> None:
        """Replace the call `node` of this module by explicit Q/DQ."""
        scale, zero_point = self.calculate_qparams()
        if parameter_name(node.args[0]):
            _store_integers(model, node, scale, zero_point, self.grid, self.axis)
        else:
            _insert_pair(model, node, float(scale), int(zero_point), self.grid)

    def _new_observer(self) -> RangeObserver:
        observer = self._make_observer()
        observer.summed = self._summed
        return observer

    def _find(self, observer: RangeObserver) -> None:
        scale, zero_point = self.grid.parameters(*observer.range(self.grid))
        whole = self.axis is None
        self._scale, self._zero_point = (scale[0], zero_point[0]) if whole else (scale, zero_point)

    def _by_channel(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1, -1) if self.axis is None else x.transpose(0, self.axis).flatten(1)

    def _observe(self, x: torch.Tensor) -> None:
        values = self._by_channel(x)
        low, high = _extremes(values)
        if not (low.isfinite().all() and high.isfinite().all()):
            source = "weight" if self._is_constant else f"calibration batch {self._batches}: the activation of"
            raise StageError(f"{source} {self.name!r} holds NaN or infinity", fix="check the checkpoint and the images")
        if self._limits != _ANYTHING:
            values, low, high = (part.clamp(*self._limits) for part in (values, low, high))
        self._observer.observe(values, low, high)
        self._scale = self._zero_point = None


def _extremes(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest of each row; within a row PyTorch uses neither threads nor vectors."""
    if len(values) > 1:
        return torch.aminmax(values, dim=1)
    low, high = torch.aminmax(values)
    return low[None], high[None]


class Follower(ObserverBase):
    """A place where the values of `leader`'s tensor come by again, rearranged: same numbers, nothing new to observe."""

    def __init__(self, leader: TensorQuantizer) -> None:
        super().__init__(dtype=leader.dtype)
        self.leader = leader

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.leader.calculate_qparams()

    def convert(self, model: fx.GraphModule, node: fx.Node) -> None:
        self.leader.convert(model, node)


class BiasQuantizer(ObserverBase):
    """A bias as int32 with scale `input scale x weight scale`, so that it adds to the integer sum of products."""

    def __init__(self, **_pt2e: object) -> None:
        super().__init__(dtype=torch.int32)
        self.input: TensorQuantizer | Follower | None = None
        self.weight: TensorQuantizer | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.input is not None
        assert self.weight is not None
        scale = self.input.calculate_qparams()[0] * self.weight.calculate_qparams()[0]
        return scale, torch.zeros_like(scale, dtype=torch.int64)

    def make_room(self, bias: torch.Tensor) -> None:
        """Coarsen weight scales so far that no bias `[channels]` overflows (tiny weights beside a large bias)."""
        assert self.input is not None
        assert self.weight is not None
        smallest = bias.detach().abs() / (self.input.calculate_qparams()[0] * _LARGEST_BIAS)
        self.weight.raise_scale(smallest if self.weight.axis is not None else smallest.max())

    def convert(self, model: fx.GraphModule, node: fx.Node) -> None:
        scale, zero_point = self.calculate_qparams()
        _store_integers(model, node, scale, zero_point, _BIAS_GRID, 0 if scale.ndim else None)


def one_dequantize_per_reader(graph: fx.Graph) -> None:
    """Give each reader of quantized values a dequantize operator of its own: fusing kernels look for pairs."""
    for operator in (_ops.dequantize_per_tensor.default, _ops.dequantize_per_channel.default):
        for node in graph.find_nodes(op="call_function", target=operator):
            for reader in list(node.users)[1:]:
                with graph.inserting_after(node):
                    reader.replace_input_with(node, graph.node_copy(node))


def _insert_pair(model: fx.GraphModule, node: fx.Node, scale: float, zero_point: int, grid: Grid) -> None:
    numbers = (scale, zero_point, grid.minimum, grid.maximum, grid.dtype)
    with model.graph.inserting_before(node):
        quantized = model.graph.call_function(_ops.quantize_per_tensor.default, (node.args[0], *numbers))
        restored = model.graph.call_function(_ops.dequantize_per_tensor.default, (quantized, *numbers))
    _substitute(model, node, restored)


def _store_integers(
    model: fx.GraphModule,
    node: fx.Node,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    grid: Grid,
    axis: int | None,
) -> None:
    """Replace `quantizer(get_attr)` by `dequantize(get_attr)` of stored integers."""
    source, values = node.args[0], constant(model, node.args[0])
    assert isinstance(source, fx.Node)
    assert values is not None
    name = _name_for(model, source, grid)
    bind(model, name, _integers(values, scale, zero_point, grid, axis), trainable=False)
    if axis is None:
        numbers: tuple[Argument, ...] = (float(scale), int(zero_point))
    else:
        bind(model, f"{name}_scale", scale, trainable=False)
        bind(model, f"{name}_zero_point", zero_point, trainable=False)
        with model.graph.inserting_before(node):
            numbers = (*(model.graph.get_attr(f"{name}_{part}") for part in ("scale", "zero_point")), axis)
    operator = _ops.dequantize_per_tensor.default if axis is None else _ops.dequantize_per_channel.default
    with model.graph.inserting_before(node):
        stored = model.graph.get_attr(name)
        restored = model.graph.call_function(operator, (stored, *numbers, grid.minimum, grid.maximum, grid.dtype))
    _substitute(model, node, restored)


def _name_for(model: fx.GraphModule, source: fx.Node, grid: Grid) -> str:
    """The parameter's own name, unless something else still reads it as float."""
    name = str(source.target)
    readers = [user for node in model.graph.find_nodes(op="get_attr", target=name) for user in node.users]
    return name if len(readers) == 1 else f"{name}_{str(grid.dtype).removeprefix('torch.')}_{source.name}"


def _integers(
    values: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, grid: Grid, axis: int | None
) -> torch.Tensor:
    if axis is not None:
        shape = [-1 if index == axis else 1 for index in range(values.ndim)]
        scale, zero_point = scale.view(shape), zero_point.view(shape)
    rounded = (values.double() / scale.double()).round() + zero_point
    return rounded.clamp(grid.minimum, grid.maximum).to(grid.dtype)


def _substitute(model: fx.GraphModule, node: fx.Node, replacement: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if "val" in source.meta:
        replacement.meta["val"] = source.meta["val"]
    node.replace_all_uses_with(replacement)
    model.graph.erase_node(node)
