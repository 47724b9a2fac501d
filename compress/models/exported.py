"""Exported programs (`.pt2`), loaded so that a stranger's file cannot run code.

`torch.export.load` says itself that it must not be used on untrusted files. In torch 2.14 a file can run code through

* pickles: sample inputs and legacy weights fall back to `torch.load(weights_only=False)`, constants and tensors marked
  `use_pickle` go there directly, opaque objects to `pickle.loads`;
* native code: AOTInductor libraries in the archive are loaded;
* strings that are evaluated: symbolic sizes (`sympify`), guards, tree specs (import by name), operator names (looked up
  from `torch`, from where `os.system` is in reach), and value names, which are pasted into generated Python.

So the file is not handed to torch: a new archive with only the understood parts is, in memory. Tensors are copied as
raw bytes, pickles and guards are left behind, every remaining string must be of its kind, and every operator one of
ATen that computes.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import fx, nn
from torch.export.pt2_archive._package import PT2ArchiveReader, PT2ArchiveWriter, load_pt2

from compress.core.errors import ModelError
from compress.formats.torchscript.operators import computes
from compress.formats.torchscript.records import LARGEST, Damaged
from compress.models.aten_modules import with_modules
from compress.models.exported_tensors import Json, check_program_tensors, check_records
from compress.support.plain_json import parse_json
from compress.support.quiet import first_line

__all__ = ["is_tensor_name", "load_exported", "load_graph"]

_MODEL = "models/model.json"
_MOST_VALUES = 20_000_000
"""In a program: each of its operators has some hundred."""
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_IDENTIFIER = re.compile(r"(?!__)\w+(\.(?!__)\w+)*|", re.ASCII)
"""Names of values and modules; a part may be a number, as `nn.Sequential` names its layers."""
_UNQUOTED = re.compile(r"[^\"'\\.\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""A part of a tensor's name: torch pastes it between double quotes where it is no identifier, without escaping it."""
_SYMBOLIC = re.compile(
    r"""(?: Symbol\('[a-z]{1,3}\d{1,6}'(?:,\ (?:integer|positive|nonnegative|real)=True)*\)
        | Integer\(-?\d{1,18}\) | \b[a-z]{1,3}\d{1,6}\b | \b\d{1,18}\b
        | \b(?:Add|Mul|FloorDiv|Mod|PythonMod|CleanDiv|CeilDiv|Max|Min|Eq|Ne|Lt|Le|Gt|Ge)\(
        | \*(?!\*) | [-+(),<>=/ ])*""",
    re.VERBOSE,
)
"""Sums and products of sizes, as sympy writes them; no attribute, no other call, no power that would never end."""
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?P<aten>\w+)\.\w+|_operator\.(add|sub|mul|floordiv|mod|getitem)|torch\.sym_\w+"
    r"|torch\.ops\.quantized_decomposed\.(de)?quantize_per_(tensor|channel)\.\w+"
)
_STRINGS = {
    "target": _OPERATOR,
    "as_operator": _OPERATOR,
    "expr_str": _SYMBOLIC,
    "as_float": re.compile(r"-?Infinity|NaN"),
}
_TENSOR_NAMES = frozenset({"parameter_name", "buffer_name", "tensor_constant_name"})
_TREE_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
_FREE_TEXT = frozenset({"as_string", "as_strings"})
"""String operands (`"mean"`, an einsum equation): torch writes them into code with `repr`, so they stay strings."""


def load_exported(path: Path) -> nn.Module:
    """The program as a module in eval mode; convolutions, normalisations and linear layers are modules of their own.

    Raises:
        ModelError: truncated, from an incompatible torch, or with parts that could run code.
    """
    return with_modules(load_graph(path))


def load_graph(path: Path) -> fx.GraphModule:
    """The program as the graph that was exported.

    Raises:
        ModelError: as `load_exported`.
    """
    import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators

    try:
        if path.stat().st_size > LARGEST:
            raise Damaged(f"it has more than {LARGEST // 2**30} GiB")
        archive = _rebuilt(PT2ArchiveReader(io.BytesIO(path.read_bytes())), path)
        module = load_pt2(archive).exported_programs["model"].module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        return module
    except ModelError:
        raise
    except Exception as error:  # torch raises anything from KeyError to SerializeError on a damaged archive
        raise ModelError(
            f"model file {path} is damaged or of an incompatible version: {first_line(error)}",
            fix=f"export it again with torch {torch.__version__.split('+')[0]}: torch.export.save(program, path)",
        ) from error


def _rebuilt(reader: PT2ArchiveReader, path: Path) -> io.BytesIO:
    """A new archive holding only what was checked."""
    if sum(map(reader.archive_file.get_record_size, reader.get_file_names())) > LARGEST:
        raise Damaged(f"it unpacks to more than {LARGEST // 2**30} GiB")
    program = _object(parse_json(reader.read_string(_MODEL), values=_MOST_VALUES))
    _check_program(program, path)
    buffer = io.BytesIO()
    with PT2ArchiveWriter(buffer) as writer:
        writer.write_string(_MODEL, json.dumps(program))
        writer.write_bytes(_SAMPLE_INPUTS, b"")
        for config in _CONFIGS:
            text = reader.read_string(config)
            writer.write_string(config, text)
            folder = config.rpartition("/")[0]
            entries = _entries(parse_json(text), path)
            records = {str(entry["path_name"]): b"" for entry in entries.values()}
            records = {name: reader.read_bytes(f"{folder}/{name}") for name in records}
            check_program_tensors(program, entries)
            check_records(entries, {name: len(record) for name, record in records.items()})
            for name, record in records.items():
                writer.write_bytes(f"{folder}/{name}", record)
    buffer.seek(0)
    return buffer


def _entries(config: Json, path: Path) -> dict[str, dict[str, Json]]:
    """Entries of the archive for each tensor; raw bytes only."""
    entries = {name: _object(value) for name, value in _object(_object(config)["config"]).items()}
    for name, entry in entries.items():
        if entry["use_pickle"] or not _PAYLOAD.fullmatch(str(entry["path_name"])) or not is_tensor_name(name):
            raise _refused(path, f"the pickled or unknown object {name!r}")
    return entries


def _check_program(program: dict[str, Json], path: Path) -> None:
    """Blank what is not needed and check every string that remains; edits `program`."""
    program["guards_code"] = []  # Python source, re-checked by this program's own forward pass
    program["torch_version"] = torch.__version__
    graph_module = _object(program["graph_module"])
    graph_module["metadata"] = {}
    graph_module["treespec_namedtuple_fields"] = {}
    calls = graph_module["module_call_graph"]
    assert isinstance(calls, list)
    graph_module["module_call_graph"] = calls[:1]  # the calling convention of the root; the rest is for unflattening
    for node in cast(list[Json], _object(graph_module["graph"])["nodes"]):
        _object(node)["metadata"] = {}
    for key, text in _strings(program, ""):
        _check_string(key, text, path)


def _check_string(key: str, text: str, path: Path) -> None:
    if key in _FREE_TEXT or key == "torch_version":
        return
    if key in ("in_spec", "out_spec"):
        _check_tree(cast(list[Json], parse_json(text))[1], path)
        return
    if key in _TENSOR_NAMES and is_tensor_name(text):
        return
    matched = _STRINGS.get(key, _IDENTIFIER).fullmatch(text)
    operator = matched.groupdict().get("aten") if matched else None
    # the target of a parameter is its name, that of a node its operator
    if (not matched and not (key == "target" and _is_plain_name(text))) or (operator and not computes(operator)):
        raise _refused(path, f"{key} {text[:60]!r}")


def is_tensor_name(text: str) -> bool:
    """Tell whether a parameter or buffer may be called so: torch looks it up by parts, and quotes it in code it makes.

    Letters of any script, slashes and blanks are fine. What Python itself calls `__class__` or `__globals__` is not,
    nor a letter that Python reads as another one.
    """
    return unicodedata.normalize("NFKC", text) == text and all(
        _UNQUOTED.fullmatch(part) and not (part.startswith("__") and part.endswith("__")) for part in text.split(".")
    )


def _is_plain_name(text: str) -> bool:
    return _IDENTIFIER.fullmatch(text) is not None and not text.startswith(("torch", "math", "_operator"))


def _check_tree(spec: Json, path: Path) -> None:
    """A calling convention made of tuples, lists and dicts; other types are imported by name."""
    node = _object(spec)
    context = node["context"]
    if node["type"] not in _TREE_TYPES or "__enum__" in str(context):
        raise _refused(path, f"the argument type {node['type']!r}")
    for child in cast(list[Json], node["children_spec"]):
        _check_tree(child, path)


def _strings(value: Json, key: str) -> Iterator[tuple[str, str]]:
    """Every string with the key it is stored under; keys themselves are names."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield "name", name
            yield from _strings(item, name)


def _object(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _refused(path: Path, what: str) -> ModelError:
    return ModelError(
        f"model file {path} holds {what}, which could run code and is never loaded",
        fix="export a network of ordinary operators with torch.export.save, or use model=factory",
    )
