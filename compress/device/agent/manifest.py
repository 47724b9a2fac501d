"""`manifest.json` of a bundle, read on the device: every field that anything here uses is checked before it is used."""

import hashlib
import os
from typing import Any, Sequence, Set, Tuple

from .checks import flag, integer, mapping, matching, number, optional, record, sequence, text
from .files import AGAIN, read_plain, require_inside
from .json_text import LARGEST_BYTES, parse_json
from .values import Json, Problem

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1

LIMITS = ("abs_error", "relative_error", "sqnr_db")  # of `golden.violation`
LARGEST_SIDE = 1 << 20  # channels, rows or columns of one image

sha256 = matching("[0-9a-f]{64}", "a SHA-256")
version = matching(r"\d{1,6}(\.\d{1,6})*", "a version such as 1.17")


def tolerance(value: Any, name: str) -> None:
    """Require limits by runtime or `any`: at least one each, and none that this agent would pass over."""
    mapping(mapping(number))(value, name)
    if "any" not in value:
        raise ValueError("%s has no 'any'" % name)
    for runtime, limits in value.items():
        unknown = [limit for limit in limits if limit not in LIMITS]
        if unknown or not limits:
            reason = "has the unknown limit %r" % unknown[0] if unknown else "has no limit"
            raise ValueError("%s.%s %s; this agent knows %s" % (name, runtime, reason, ", ".join(LIMITS)))


MODEL = record(
    {
        "stage": text,
        "path": text,
        "format": text,
        "precision": text,
        "runtime": text,
        "dynamic_batch": flag,
        "sample_shape": sequence(integer(1, LARGEST_SIDE), 3, 3),
        "tolerance": tolerance,
    },
    {
        "opset": optional(integer(0, 1 << 20)),
        "compiled": optional(text),
        "needs": mapping(version),
        "cpu_flags": mapping(sequence(text)),
    },
)

DOCUMENT = record(
    {
        "producer": text,
        "target": text,
        "device": record({"architecture": text, "runtime": text}),
        "golden": record({"path": text}, {"samples": integer(0, 1 << 40)}),
        "models": sequence(MODEL, 1),
        "files": sequence(record({"path": text, "sha256": sha256, "size_bytes": integer(0, 1 << 62)}), 1),
    }
)


def read_manifest(folder: str) -> Tuple[Json, str]:
    """The manifest and the SHA-256 of its bytes; `Problem` unless it is one, and every path stays in the bundle."""
    path = os.path.join(folder, MANIFEST)
    try:
        content = read_plain(path, LARGEST_BYTES)
    except (OSError, IOError) as error:
        raise Problem("cannot read %s: %s" % (path, error.strerror), "run this in the bundle's folder", 2)
    try:
        manifest = parse_json(content)
        record({})(manifest, "")
        if "schema_version" not in manifest:
            raise ValueError("it has no 'schema_version'")
        schema = manifest["schema_version"]
        integer(0, 1 << 53)(schema, "schema_version")
        if schema == MANIFEST_SCHEMA:
            DOCUMENT(manifest, "")
    except ValueError as error:
        raise Problem("%s is not a bundle's manifest: %s" % (path, error), AGAIN, 2)
    if schema != MANIFEST_SCHEMA:
        raise Problem("the manifest has schema %s, this agent reads %d" % (schema, MANIFEST_SCHEMA), code=2)
    require_names(folder, manifest)
    return manifest, hashlib.sha256(content).hexdigest()


def require_names(folder: str, manifest: Json) -> None:
    """Refuse a path that leaves the bundle, one without checksum, and whatever is named twice."""
    files, models = manifest["files"], manifest["models"]
    names = [entry["path"] for entry in files] + [model["path"] for model in models] + [manifest["golden"]["path"]]
    for name in names + [model["compiled"] for model in models if model.get("compiled")]:
        require_inside(folder, name)
    listed = set(entry["path"] for entry in files)
    for name in names:
        if name not in listed:
            raise Problem("the manifest has no checksum for %r" % name, AGAIN, 2)
    require_once("file", [entry["path"] for entry in files])
    require_once("model", [model["stage"] for model in models])


def require_once(what: str, names: Sequence[str]) -> None:
    seen: Set[str] = set()
    for name in names:
        if name in seen:
            raise Problem("the manifest names the %s %r twice" % (what, name), AGAIN, 2)
        seen.add(name)
