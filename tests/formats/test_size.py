"""Sizes: equal to what the real writers write."""

from __future__ import annotations

import gzip

import numpy as np
import onnx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats.registry import open_file
from compress.formats.size import Size, file_size, module_size, safetensors_chunks, stored_tensors

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int16]
DTYPES += [torch.int32, torch.int64, torch.bool]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text('abc."é', min_size=1, max_size=5),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_law_the_stream_is_the_file_that_safetensors_writes(layout):
    tensors = {name: torch.ones(shape, dtype=dtype) for name, (dtype, shape) in layout.items()}
    assert b"".join(safetensors_chunks(tensors)) == save(tensors)


def test_module_size_is_that_of_its_state_file_and_its_gzip():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    content = save(module.state_dict())
    size = module_size(module)
    assert size.size_bytes == len(content)
    assert size.gzip_bytes == len(gzip.compress(content, compresslevel=6, mtime=0))


def test_shared_tensors_count_once_and_views_are_stored_contiguous():
    module = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
    alone = module_size(nn.Sequential(nn.Linear(32, 32, bias=False))).size_bytes
    module[1].weight = module[0].weight
    assert module_size(module).size_bytes == alone
    module[1].weight = nn.Parameter(module[0].weight.detach().t())
    assert set(stored_tensors(module)) == {"0.weight", "1.weight"}
    assert module_size(module).size_bytes > alone + 32 * 32 * 4


def test_a_captured_graph_counts_only_what_it_reads():
    captured = torch.export.export(nn.Linear(16, 4), (torch.zeros(1, 16),)).module()
    captured.register_buffer("left_over", torch.zeros(1000))
    assert set(stored_tensors(captured)) == {"weight", "bias"}


def test_zeros_shrink_the_gzip_only():
    torch.manual_seed(0)
    dense, sparse = nn.Linear(64, 64), nn.Linear(64, 64)
    with torch.no_grad():
        sparse.weight.mul_(torch.rand(64, 64) > 0.8)
    assert module_size(dense).size_bytes == module_size(sparse).size_bytes
    assert module_size(sparse).gzip_bytes < 0.5 * module_size(dense).gzip_bytes


def test_file_size_is_that_on_disk_and_gzip_does_not_depend_on_names(tmp_path):
    content = bytes(range(256)) * 9000  # more than one chunk
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(content)
    second.write_bytes(content)
    size = file_size([first])
    assert (size.size_bytes, size.gzip_bytes) == (len(content), len(gzip.compress(content, compresslevel=6, mtime=0)))
    assert file_size([second]) == size
    assert file_size([first, second]).size_bytes == 2 * len(content)


def test_external_data_of_an_onnx_file_belongs_to_it(tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    model = helper.make_model(helper.make_graph([node], "g", [image], [logits], [weight]))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    size = open_file(Artifact(Format.ONNX, path, Precision.FP32, InputSpec((1, 2, 2), "gray", (0.5,), (0.5,)))).size()
    assert isinstance(size, Size)
    assert size.size_bytes == path.stat().st_size + (tmp_path / "m.data").stat().st_size
