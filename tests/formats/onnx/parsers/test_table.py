"""The tables: every entry has a source, and what they say agrees with the devices and runtimes that they are about."""

from __future__ import annotations

import onnx.defs
import pytest
import yaml
from pydantic import ValidationError

from compress.config.schema import load_target
from compress.core.errors import ConfigError
from compress.formats.onnx.parsers.forms import FORMS
from compress.formats.onnx.parsers.table import Limit, ParserTable, load_parser, parser_names
from compress.support.resources import targets_folder

TARGETS = sorted(path.stem for path in targets_folder().glob("*.yaml"))
NAMES = ["onnxruntime_1_31", "tensorrt_10_3", "tensorrt_8_2", "tensorrt_8_5"]


def test_there_is_a_table_for_every_parser():
    assert parser_names() == NAMES
    with pytest.raises(ConfigError, match=r"no table of the ONNX parser 'tensorrt_85'.*did you mean 'tensorrt_8_5'"):
        load_parser("tensorrt_85")


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_has_a_source_and_is_an_onnx_operator(name):
    table = load_parser(name)
    assert len(table.operators) > 120
    for operator, entry in table.operators.items():
        assert onnx.defs.has(operator), operator
        assert table.sources[entry.source]
        assert all(table.sources[limit.source] for limit in entry.limits)


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_names_what_the_operator_has(name):
    history: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        history.setdefault(schema.name, []).append(schema)
    for operator, entry in load_parser(name).operators.items():
        versions = history[operator]
        for limit in entry.limits:
            if limit.attribute is not None:
                assert any(limit.attribute in schema.attributes for schema in versions), (operator, limit)
            position = max(limit.constant or 0, limit.rank or 0, entry.typed)
            assert any(position < schema.max_input for schema in versions), (operator, limit)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_names_a_table_of_its_own_opset(name):
    target = load_target(name, [])
    if target.onnx_parser is None:
        return
    table = load_parser(target.onnx_parser.value)
    assert target.onnx_opset_max is None or target.onnx_opset_max.value == table.opset
    assert table.parser.split(".")[0] in target.runtime.value or "ONNX Runtime" in target.runtime.value


def test_what_is_known_of_tensorrt():
    old, new = load_parser("tensorrt_8_2"), load_parser("tensorrt_8_5")
    assert (old.opset, new.opset) == (13, 17)
    lacks = {"HardSwish", "Trilu", "GridSample", "Mod", "OneHot", "Shrink", "MeanVarianceNormalization"}
    assert not lacks & set(old.operators)
    assert lacks <= set(new.operators)
    assert not {"LayerNormalization", "GroupNormalization", "QLinearConv", "Hardmax"} & set(new.operators)
    allowed = {limit.attribute: limit.allowed for limit in old.operators["Resize"].limits}
    assert allowed["mode"] == ("nearest", "linear")


def test_what_is_known_of_tensorrt_10():
    old, new = load_parser("tensorrt_8_5"), load_parser("tensorrt_10_3")
    assert new.opset == 20
    assert set(old.operators) <= set(new.operators)
    assert {"LayerNormalization", "GroupNormalization", "IsInf", "Hardmax", "Gelu", "Mish", "DeformConv"} <= set(
        new.operators
    )
    assert not {"QLinearConv", "STFT", "Unique", "Det", "DynamicQuantizeLinear"} & set(new.operators)
    assert new.as_read("int64") == "int64"  # 8.5 reads it as int32
    allowed = {limit.attribute: limit.allowed for limit in new.operators["Resize"].limits}
    assert (allowed["antialias"], allowed["mode"]) == ((0,), ("nearest", "linear", "cubic"))


def test_the_table_of_onnxruntime_is_what_the_installed_one_says():
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    table = load_parser("onnxruntime_1_31")
    if table.parser != f"ONNX Runtime {onnxruntime.__version__}":
        pytest.skip("another version is installed")
    kernels = {
        kernel.op_name
        for kernel in get_all_opkernel_def()
        if kernel.domain == "" and kernel.version_range[0] <= table.opset and kernel.version_range[1] >= 13
    }
    listed = {name for name, entry in table.operators.items() if entry.source == "kernels"}
    assert listed <= kernels
    assert {"Conv", "LayerNormalization", "QLinearConv", "Resize", "DequantizeLinear"} <= listed
    (conv,) = {tuple(kernel.type_constraints["T"]) for kernel in get_all_opkernel_def() if kernel.op_name == "Conv"}
    assert conv == ("tensor(float)",)
    assert table.operators["Conv"].types == ("float32",)


def minimal(**changes: object) -> dict[str, object]:
    entry = {"types": ["float32"], "source": "docs"}
    facts = {
        "parser": "A parser 1.0",
        "opset": 13,
        "rank": 8,
        "types": ["float32"],
        "listed": "docs",
        "sources": {"docs": "a document"},
        "operators": {"Relu": entry},
    }
    return facts | changes


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ({"Relu": {"source": "nowhere"}}, "Relu: no source 'nowhere'"),
        ({"Relu": {}}, "source"),
        ({"Relu": {"types": ["int8"], "source": "docs"}}, "are not among the parser's"),
        ({"Relu": {"source": "docs", "limits": [{"source": "docs"}]}}, "a limit is one of"),
        ({"Relu": {"source": "docs", "limits": [{"rule": "nonsense", "source": "docs"}]}}, "no rule 'nonsense'"),
        ({"Relu": {"source": "docs", "limits": [{"attribute": "mode", "source": "docs"}]}}, "go together"),
        ({"Relu": {"source": "docs", "limits": [{"constant": 1, "source": "gone"}]}}, "no source 'gone'"),
    ],
)
def test_a_damaged_table_is_refused(operators, message):
    text = yaml.safe_dump(minimal(operators=operators))
    with pytest.raises(ValidationError, match=message):
        ParserTable.model_validate(yaml.safe_load(text))


def test_a_limit_is_one_thing():
    with pytest.raises(ValidationError, match="a limit is one of"):
        Limit(constant=1, outputs=2, source="docs")


def test_every_form_is_of_an_operator():
    assert all(onnx.defs.has(operator) for operator in FORMS)
