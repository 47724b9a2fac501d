"""A TensorRT engine under the names that TensorRT 8.0 to 11 have for its parts. The host's runner uses it too.

TensorRT 8.5 gave tensors their names (`get_tensor_name`), 10 took the numbered bindings away.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

# tensorrt.nptype of TensorRT 8 asks numpy for names that numpy 1.24 took away
TENSOR_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}


class Tensor(NamedTuple):
    """An input or an output; `key` is its name, or its number before TensorRT 8.5; `dtype` as numpy calls it."""

    key: Any
    shape: Tuple[int, ...]
    is_input: bool
    dtype: str


class Engine(object):
    """A deserialized engine and the context it runs in.

    Attributes:
        damaged: TensorRT does not take the content: it is damaged, of another TensorRT, of another GPU, or there is too
            little memory.
        context: None where there is too little memory to run it.
    """

    def __init__(self, tensorrt: Any, content: bytes) -> None:
        self.runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))  # must outlive the engine
        self.engine = self.runtime.deserialize_cuda_engine(content)
        self.damaged = self.engine is None
        self.context: Any = None if self.damaged else self.engine.create_execution_context()
        self.named = hasattr(self.engine, "num_io_tensors")
        self.mode = getattr(tensorrt, "TensorIOMode", None)
        self.addresses: Dict[Any, int] = {}

    def tensors(self) -> List[Tensor]:
        engine = self.engine
        if self.named:
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            return [
                tensor(
                    name,
                    engine.get_tensor_shape(name),
                    engine.get_tensor_mode(name) == self.mode.INPUT,  # type: ignore[union-attr]
                    engine.get_tensor_dtype(name),
                )
                for name in names
            ]
        return [
            tensor(i, engine.get_binding_shape(i), engine.binding_is_input(i), engine.get_binding_dtype(i))
            for i in range(engine.num_bindings)
        ]

    def batches(self, entry: Tensor) -> Tuple[int, int]:
        """Smallest and largest batch that the engine's profile takes at an input."""
        if entry.shape[0] > 0:
            return entry.shape[0], entry.shape[0]
        engine, key = self.engine, entry.key
        low, _, high = engine.get_tensor_profile_shape(key, 0) if self.named else engine.get_profile_shape(0, key)
        return low[0], high[0]

    def set_shape(self, entry: Tensor, shape: Tuple[int, ...]) -> None:
        """Tell the context the shape of an input; one whose batch is free is told each time it changes."""
        if entry.shape[0] < 0:
            context = self.context
            (context.set_input_shape if self.named else context.set_binding_shape)(entry.key, shape)

    def set_address(self, entry: Tensor, address: int) -> None:
        """Tell the context where a tensor lies on the GPU."""
        self.addresses[entry.key] = address
        if self.named:
            self.context.set_tensor_address(entry.key, address)

    def execute(self, stream: Optional[int] = 0) -> bool:
        """Start computing in a CUDA stream (before TensorRT 8.5: compute); whether that went well."""
        if self.named:
            return bool(self.context.execute_async_v3(stream))
        return bool(self.context.execute_v2([self.addresses[key] for key in sorted(self.addresses)]))


def tensor(key: Any, shape: Any, is_input: bool, kind: Any) -> Tensor:
    return Tensor(key, tuple(shape), is_input, TENSOR_TYPES.get(kind.name, kind.name.lower()))
