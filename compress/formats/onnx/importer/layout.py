"""Operators that move elements around, repeat them or leave some out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import fx

from compress.formats.onnx.importer.builder import Builder, Handler, Operation, Value, WeightGrid, numbers_of
from compress.formats.onnx.importer.sizes import shape_of

__all__ = ["LAYOUT"]

_Sizes = tuple[int, ...]


def _reshape(builder: Builder, operation: Operation) -> Value:
    zero_copies = not operation.get("allowzero", 0)
    target = operation.ints("shape") if "shape" in operation.attributes else operation.data(1)  # until opset 4
    if isinstance(target, fx.Node):
        return builder.call(_reshape_to, operation.data(), _given_sizes(builder, operation, 1), zero_copies)
    sizes = numbers_of(target) if isinstance(target, torch.Tensor) else list(target or ())
    shape = operation.shape()
    new_shape = [None if size == 0 and zero_copies else size for size in sizes]
    if sizes and sizes[0] == 1 and shape and shape[0] == 1:
        new_shape[0] = None  # exported for one image; keeping the leading size is the same there and right for more
    return builder.call(_reshape_to, operation.data(), tuple(new_shape), zero_copies)


def _reshape_to(data: torch.Tensor, sizes: tuple[int | None, ...], zero_copies: bool) -> torch.Tensor:
    """-1 is inferred; None keeps the size of the operand, and so does 0 where `zero_copies`."""
    return data.reshape(
        [data.shape[axis] if size is None or (size == 0 and zero_copies) else size for axis, size in enumerate(sizes)]
    )


def _flatten(builder: Builder, operation: Operation) -> Value:
    axis = operation.get("axis", 1)
    if axis == 1 and operation.rank() != 1:
        return builder.call(torch.flatten, operation.data(), 1)
    return builder.call(_flatten_at, operation.data(), axis)


def _flatten_at(data: torch.Tensor, axis: int) -> torch.Tensor:
    return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))


def _transpose(builder: Builder, operation: Operation) -> Value:
    order = operation.ints("perm")
    if order is None:
        order = tuple(reversed(range(operation.known_rank())))
    moved = builder.call(torch.permute, operation.data(), order)
    grid = builder.grid_of(operation.data())
    if grid is not None and isinstance(moved, torch.Tensor):
        axis = None if grid.axis is None else order.index(grid.axis)
        builder.grids[id(moved)] = WeightGrid(grid.scale, axis, moved)
    return moved


def _squeeze(builder: Builder, operation: Operation) -> Value:
    axes = operation.constant_ints(1, "axes")
    if axes is None:
        shape = operation.shape()
        if shape is None or None in shape:
            raise operation.unsupported("without axes, of an unknown shape")
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return builder.call(torch.squeeze, operation.data(), axes)


def _unsqueeze(builder: Builder, operation: Operation) -> Value:
    axes = operation.constant_ints(1, "axes")
    if axes is None:
        raise operation.unsupported("without axes")
    if len(axes) > 1 and min(axes) < 0:  # they count from the end of the result
        axes = tuple(axis % (operation.known_rank() + len(axes)) for axis in axes)
    value = operation.data()
    for axis in sorted(axes):
        value = builder.call(torch.unsqueeze, value, axis)
    return value


def _concat(builder: Builder, operation: Operation) -> Value:
    return builder.call(torch.cat, operation.operands(), operation.get("axis", 0))


def _split(builder: Builder, operation: Operation) -> list[Value]:
    axis = operation.get("axis", 0)
    operation.ignore("num_outputs")  # the node has that many
    sizes = operation.constant_ints(1, "split")
    if sizes is None:
        whole = operation.size(axis)
        size = -(-whole // operation.outputs)
        sizes = tuple(max(min(size, whole - index * size), 0) for index in range(operation.outputs))
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [
        builder.call(torch.narrow, operation.data(), axis, start, size)
        for start, size in zip(starts, sizes, strict=True)
    ]


def _slice(builder: Builder, operation: Operation) -> Value:
    starts, ends = _limits(builder, operation, 1, "starts"), _limits(builder, operation, 2, "ends")
    count = len(starts or ends or operation.constant_ints(3, "axes") or (0,))
    axes = operation.constant_ints(3, "axes") or tuple(range(count))
    steps = operation.constant_ints(4, "steps") or (1,) * count
    if min(steps, default=1) < 1:
        raise operation.unsupported("backwards")
    value = operation.data()
    for number, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        start = _limit(builder, operation.operand(1), starts, number)
        end = _limit(builder, operation.operand(2), ends, number)
        value = builder.call(_slice_axis, value, axis, start, end, step)
    return value


def _limits(builder: Builder, operation: Operation, index: int, attribute: str) -> _Sizes | None:
    """Starts or ends as numbers of the file; None where they are sizes."""
    value = operation.operand(index)
    if isinstance(value, fx.Node) and value in builder.sizes:
        return None
    numbers = operation.constant_ints(index, attribute)
    if numbers is None:
        raise operation.unsupported(f"without {attribute}")
    return numbers


def _limit(builder: Builder, value: Value, numbers: _Sizes | None, index: int) -> int | fx.Node:
    return builder.call_sizes(_at, value, index) if numbers is None else numbers[index]


def _at(sizes: int | _Sizes, index: int) -> int:
    return sizes[index] if isinstance(sizes, tuple) else sizes


def _slice_axis(data: torch.Tensor, axis: int, start: int, end: int, step: int) -> torch.Tensor:
    index = [slice(None)] * data.dim()
    index[axis] = slice(start, end, step)
    return data[tuple(index)]


def _gather(builder: Builder, operation: Operation) -> Value:
    data, index, axis = operation.data(), operation.data(1), operation.get("axis", 0)
    if isinstance(index, torch.Tensor) and index.dim() == 0:
        return builder.call(torch.select, data, axis, int(index))
    return builder.call(_take, data, axis, _counted_from_the_start(builder, operation, axis))


def _take(data: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
    """Slices of `data` along `axis`; the sizes of `index`, which may have any rank, stand in the place of that axis."""
    slices = torch.index_select(data, axis, index.reshape(-1))
    return slices if index.dim() == 1 else slices.unflatten(axis % data.dim(), index.shape)


def _gather_elements(builder: Builder, operation: Operation) -> Value:
    axis = operation.get("axis", 0)
    index = _counted_from_the_start(builder, operation, axis)
    return builder.call(torch.gather, operation.data(), axis, index)


def _counted_from_the_start(builder: Builder, operation: Operation, axis: int) -> fx.Node | torch.Tensor:
    """The index as int64, without the negative ones that torch does not take."""
    index = operation.data(1)
    if isinstance(index, torch.Tensor) and not bool((index < 0).any()):
        return index.long()
    return builder.call(_wrapped, index, operation.size(axis))


def _wrapped(index: torch.Tensor, size: int) -> torch.Tensor:
    return torch.where(index < 0, index + size, index).long()


def _pad(builder: Builder, operation: Operation) -> Value:
    pads, axes = operation.constant_ints(1, "pads"), operation.constant_ints(3, "axes")
    if pads is None:
        raise operation.unsupported("without pads")
    half = len(pads) // 2
    rank = half if axes is None else operation.known_rank()
    padded = [axis % rank for axis in axes] if axes is not None else list(range(half))
    before, after = dict(zip(padded, pads[:half], strict=True)), dict(zip(padded, pads[half:], strict=True))
    order = tuple(side.get(axis, 0) for axis in reversed(range(rank)) for side in (before, after))
    mode = operation.get("mode", "constant")
    if mode == "constant":
        fill = operation.constant(2)
        value = fill.item() if fill is not None else operation.get("value", 0.0)
        return builder.call(F.pad, operation.data(), order, "constant", value)
    operation.ignore(2, "value")
    return _pad_with_data(builder, operation, order, mode)


def _pad_with_data(builder: Builder, operation: Operation, order: _Sizes, mode: str) -> Value:
    """torch repeats elements in all but the first two dimensions only; `order` starts at the last."""
    name = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(mode)
    inner = max(len(order) - 4, 0)
    if name is None or any(order[inner:]) or not 3 <= operation.known_rank() <= 5:
        raise operation.unsupported(f"in mode {mode} of batch or channels")
    if min(order) < 0:
        raise operation.unsupported(f"in mode {mode} with negative pads")
    return builder.call(F.pad, operation.data(), order[:inner], name)


def _expand(builder: Builder, operation: Operation) -> Value:
    return builder.call(_expand_to, operation.data(), _given_sizes(builder, operation, 1))


def _expand_to(data: torch.Tensor, sizes: _Sizes) -> torch.Tensor:
    """Both sides broadcast: where the wanted size is 1 the operand keeps its own."""
    missing = len(sizes) - data.dim()
    shape = list(sizes) if missing >= 0 else [1] * -missing + list(sizes)
    own = [1] * max(missing, 0) + list(data.shape)
    return data.expand([have if want == 1 else want for have, want in zip(own, shape, strict=True)])


def _tile(builder: Builder, operation: Operation) -> Value:
    return builder.call(torch.tile, operation.data(), _given_sizes(builder, operation, 1))


def _constant_of_shape(builder: Builder, operation: Operation) -> Value:
    fill = operation.get("value", torch.zeros(1))
    return builder.call(_full, _given_sizes(builder, operation, 0), fill.item(), fill.dtype)


def _full(sizes: _Sizes, fill: float, kind: torch.dtype) -> torch.Tensor:
    return torch.full(tuple(sizes), fill, dtype=kind)


def _given_sizes(builder: Builder, operation: Operation, index: int) -> fx.Node | _Sizes:
    """Sizes of the file or computed from sizes."""
    value = operation.data(index)
    if isinstance(value, torch.Tensor):
        return tuple(int(size) for size in numbers_of(value))
    if value not in builder.sizes:
        raise operation.unsupported(f"with a computed operand {index}")
    return value


def _range(builder: Builder, operation: Operation) -> Value:
    numbers, kind = [operation.data(index) for index in range(3)], torch.int64
    for index, number in enumerate(numbers):
        if isinstance(number, torch.Tensor):
            kind = number.dtype
        elif number not in builder.sizes:
            raise operation.unsupported(f"with a computed operand {index}")
    return builder.call(
        _count, *(number.item() if isinstance(number, torch.Tensor) else number for number in numbers), kind
    )


def _count(start: float, limit: float, step: float, kind: torch.dtype) -> torch.Tensor:
    return torch.arange(start, limit, step, dtype=kind)


def _triangle(builder: Builder, operation: Operation) -> Value:
    diagonal = operation.constant(1)
    function = torch.triu if operation.get("upper", 1) else torch.tril
    return builder.call(function, operation.data(), 0 if diagonal is None else int(diagonal))


def _depth_to_space(builder: Builder, operation: Operation) -> Value:
    block, mode = operation.get("blocksize", 1), operation.get("mode", "DCR")
    if mode == "CRD":
        return builder.call(F.pixel_shuffle, operation.data(), block)
    if mode != "DCR":
        raise operation.unsupported(f"in mode {mode}")
    return builder.call(_blocks_to_space, operation.data(), block)


def _blocks_to_space(data: torch.Tensor, block: int) -> torch.Tensor:
    """The place in the block is the slower part of the channel (depth, column, row order)."""
    n, c, h, w = data.shape
    parts = data.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(builder: Builder, operation: Operation) -> Value:
    block, mode = operation.get("blocksize", 1), operation.get("mode", "DCR")
    if mode == "CRD":
        return builder.call(F.pixel_unshuffle, operation.data(), block)
    return builder.call(_space_to_blocks, operation.data(), block)


def _space_to_blocks(data: torch.Tensor, block: int) -> torch.Tensor:
    n, c, h, w = data.shape
    parts = data.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


def _constant(builder: Builder, operation: Operation) -> Value:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in operation.attributes:
            operation.ignore(name)
            return torch.as_tensor(operation.attributes[name])
    raise operation.unsupported("of this type")


def _shape(builder: Builder, operation: Operation) -> Value:
    start, end = operation.get("start", 0), operation.get("end", 0) if "end" in operation.attributes else None
    value, shape = operation.data(), operation.shape()
    sizes = None if shape is None else shape[start:end]
    batch = shape is None or 0 in range(*slice(start, end).indices(len(shape)))
    if sizes is not None and None not in sizes and (isinstance(value, torch.Tensor) or not batch):
        return torch.tensor(sizes, dtype=torch.int64)
    return builder.call_sizes(shape_of, value, start, end, shape=shape)


def _size(builder: Builder, operation: Operation) -> Value:
    value = operation.data()
    return (
        torch.tensor(value.numel())
        if isinstance(value, torch.Tensor)
        else builder.call_sizes(_elements, value, shape=operation.shape())
    )


def _elements(data: torch.Tensor) -> int:
    return data.numel()


LAYOUT: dict[str, Handler] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
"""Handlers by ONNX name."""
