"""Malformed configurations: YAML in every file the program reads any from, and values typed on the command line."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from robustness_case import Case, generated, mutated, write

from compress.__main__ import main
from compress.device.inventory import find_devices
from compress.support.resources import conf_folder, targets_folder

__all__ = ["overrides", "yaml_files"]

_TOKENS = (
    b"[",
    b"]",
    b"{",
    b"}",
    b": ",
    b"- ",
    b"? ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!int ",
    b"!!set ",
    b"!x ",
    b"|\n",
    b">\n",
    b"'",
    b'"',
    b"#",
    b"%",
    b"---\n",
    b"...\n",
    b"\n",
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"${seed}",
    b"${",
    b"~",
    b"1e999",
    b".nan",
    b"0x",
    b"0b_",
    b"1:60",
    b"2001-13-45",
    b"9" * 5000,
    b"\xe2\x80\xa8",
    b"\x1b[31m",
)


def _laughs(width: int, levels: int) -> str:
    """Lists of aliases of lists of aliases."""
    lines = [f"a0: &a0 [{','.join('x' * width)}]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def _references(levels: int) -> str:
    """The same with interpolations."""
    lines = ["kind: digits", "r0: xxxxxxxx"]
    lines += [f"r{n}: {2 * ('${data.r' + str(n - 1) + '}')}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


_KINDS: dict[str, Callable[[random.Random], str]] = {
    "brackets": lambda r: r.choice("[{") * r.choice((10, 33, 100, 999, 1001, 20_000)),
    "closed brackets": lambda r: (lambda n: "a: " + "[" * n + "]" * n)(r.choice((10, 31, 32, 33, 500, 5000))),
    "block depth": lambda r: "- " * r.choice((31, 33, 400, 5000)),
    "indent depth": lambda r: "\n".join(" " * n + "a:" for n in range(r.choice((31, 33, 300)))),
    "laughs": lambda r: _laughs(r.choice((2, 9, 20)), r.choice((3, 10, 40))),
    "references": lambda r: _references(r.choice((3, 12, 40))),
    "recursive": lambda r: r.choice(("&a [*a]", "a: &a {b: *a}", "&a {? *a : 1}", "a: &a\n  - *a\n")),
    "no anchor": lambda r: "a: *nothing\n",
    "tags": lambda r: f"a: !!{r.choice(('set {x}', 'int 5', 'float x', 'binary =', 'omap [1]', 'python/name:os.x'))}",
    "own tag": lambda r: r.choice(("!x a", "a: !<tag:x> 1", "a: ! 1", "%TAG ! tag:x,1:\n---\na: !b 1")),
    "date": lambda r: f"a: {r.choice(('2001-13-45', '2001-01-01', '2001-01-01T99:99:99Z', '0000-00-00'))}",
    "digits": lambda r: (
        f"a: {r.choice(('', '-', '0x', '0b', '0o', '1e', '.'))}{'9' * r.choice((20, 400, 5000, 90_000))}"
    ),
    "odd numbers": lambda r: f"a: {r.choice(('0b_', '0x_', '1__', '._', '1:99:99', '-.inf', '.NaN', '1_e5', '08'))}",
    "keys": lambda r: r.choice(("1: a", "null: a", "true: a", "[a]: 1", "{a: b}: 1", "? [a]\n", "1.5: x", "~: x")),
    "twice": lambda r: "a: 1\na: 2\n",
    "merge": lambda r: "a: &a {x: 1}\nb: {<<: *a}\n",
    "documents": lambda r: "a: 1\n---\nb: 2\n" * r.choice((1, 100)),
    "no mapping": lambda r: r.choice(("[]", "[a]", "1", "text", "null", "", "'", "''", "|\n x", "...", "---")),
    "syntax": lambda r: r.choice(("a: [", "a: {b", "a: 'x", 'a: "\\ud800"', "a: b: c", "\ta: 1", "a: @x", "- a\nb: c")),
    "control": lambda r: f"a: x{chr(r.choice((0, 7, 27, 127, 0x85, 0x2028, 0x202E, 0xFFFE, 0x1F600)))}y\n",
    "long": lambda r: "a: " + "x" * r.choice((70_000, 3_000_000)),
    "many": lambda r: "a: [" + "1," * r.choice((6_000, 150_000)) + "]",
    "header": lambda r: (
        r.choice(("# @package\n", "# @package a b c\n", "# @package ..\n", "# @package _global_\n")) + "a: 1"
    ),
    "defaults": lambda r: (
        "defaults:\n"
        + r.choice((" - mutant\n", " - x: y\n", " - 1\n", " - [a]\n", " - {a: [b]}\n"))
        + r.choice(("", " - _self_\n - _self_\n", " - override /target: z\n", " - optional a: b\n"))
    ),
    "interpolation": lambda r: (
        "a: "
        + r.choice(
            (
                "${a}",
                "${b}",
                "${oc.env:NOPE}",
                "${oc.create:'[[['}",
                "${oc.decode:'[[['}",
                "${x:y}",
                "${",
                "'${${a}}'",
                "???",
                "${oc.decode:'" + "9" * 5000 + "'}",
                "${" * 50,
                "${oc.select:a,${a}}",
            )
        )
    ),
}


def _document(rng: random.Random, valid: bytes) -> tuple[str, bytes]:
    """The name of a kind and a document of it; half of them are a valid one with a few places changed."""
    if rng.random() < 0.5:
        return "mutated", mutated(valid, rng, _TOKENS)
    kind = rng.choice(sorted(_KINDS))
    content = _KINDS[kind](rng).encode("utf-8", "surrogatepass")
    return kind, content if rng.random() < 0.7 else valid + b"\n" + content


def _recipe(rng: random.Random) -> Case:
    """A choice of a group in a folder of the user's own."""
    group = rng.choice(("target", "data", "model", "stage", "measure", "logger", "precision", "budget"))
    choices = sorted((conf_folder() / group).glob("*.yaml"))
    valid = rng.choice(choices).read_bytes() if choices else b"drop: 1.0\n"
    kind, content = _document(rng, valid)
    typed = "+stage@stage.mutant=mutant" if group == "stage" else f"{group}=mutant"
    typed = f"+{typed}" if group == "budget" else typed
    command = [*([] if group == "target" else ["target=jetson_nano"]), *_NOTHING_TO_RUN, typed, "--config-dir", "own"]
    return Case(f"recipe {group}: {kind}", write({f"own/{group}/mutant.yaml": content}), lambda: main(command))


def _defaults(rng: random.Random) -> Case:
    """Files whose lists of defaults name one another: `n` in a row, each of which names the next one `width` times."""
    levels, width = rng.choice((1, 3, 8, 30, 300)), rng.choice((1, 2, 5, 40))
    circle = rng.random() < 0.2
    files = {}
    for level in range(levels):
        after = 0 if circle and level == levels - 1 else level + 1
        names = "".join(f" - /data@data.k{level}_{n}: d{after}\n" for n in range(width))
        files[f"own/data/d{level}.yaml"] = f"defaults:\n{names}x: 1\n".encode()
    files[f"own/data/d{levels}.yaml"] = b"x: 1\n"
    command = ["target=jetson_nano", *_NOTHING_TO_RUN, "data=digits", "+data@data.tree=d0", "--config-dir", "own"]
    shape = f"{levels} levels of {width}{', a circle' if circle else ''}"
    return Case(f"defaults: {shape}", write(files), lambda: main(command))


_NOTHING_TO_RUN = ("model=file", "model.path=absent.onnx", "output=out", "-q")
"""What is composed, checked and planned well ends at a model that is not there."""


def _target(rng: random.Random) -> Case:
    kind, content = _document(rng, (targets_folder() / "jetson_nano.yaml").read_bytes())
    command = ["target=jetson_nano", *_NOTHING_TO_RUN, "data=digits", "--config-dir", "own"]
    return Case(f"target: {kind}", write({"own/targets/jetson_nano.yaml": content}), lambda: main(command))


def _help(rng: random.Random) -> Case:
    kind, content = _document(rng, b"# Mine\nkind: digits\n")
    return Case(
        f"help: {kind}", write({"own/data/mine.yaml": content}), lambda: main(["--help", "--config-dir", "own"])
    )


def _inventory(rng: random.Random) -> Case:
    kind, content = _document(
        rng, b"kitchen: {host: pi@192.168.1.20, target: jetson_nano}\nn: {host: x, identity: ~/k}\n"
    )
    path = Path("devices.yaml")
    find = lambda: bool(find_devices(["kitchen"], inventory=path, target=None)) - 1  # noqa: E731
    return Case(f"inventory: {kind}", write({"devices.yaml": content}), find)


def _class_map(rng: random.Random) -> Case:
    kind, content = _document(rng, b"cat: 1\ndog: 0\n'007': 3\n")
    files = {f"photos/{name}/a.png": _PIXEL for name in ("cat", "dog", "007")} | {"map.yaml": content}
    command = [
        "target=jetson_nano",
        *_NOTHING_TO_RUN,
        "data=image_folder",
        "data.train=photos",
        "data.class_map=map.yaml",
    ]
    return Case(f"class map: {kind}", write(files), lambda: main(command))


_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


def yaml_files(count: int, seed: int) -> Iterator[Case]:
    """Files of YAML."""
    places = (*[_recipe] * 9, _defaults, *[_target] * 2, _help, _inventory, _class_map)
    return generated(count, seed, lambda rng: rng.choice(places)(rng))


_KEYS = (
    "seed",
    "output",
    "resume",
    "golden_samples",
    "trust",
    "precision",
    "target",
    "model",
    "data",
    "data.calibration",
    "budget",
    "budget.drop",
    "measure.threads",
    "measure.latency_seconds",
    "model.input.shape",
    "model.input.mean",
    "stage.magnitude.amount",
    "stage.ptq_static.keep_float",
    "stage.x",
    "stage",
    "device.hosts",
    "device.inventory",
    "logger",
    "+x",
    "++x.y",
    "~stage.magnitude",
    "~seed",
    "+stage@stage.x",
    "stage.to_onnx.before",
    "a.b.c",
    "",
    "=",
    "@",
)

_VALUES = (
    "",
    "1",
    "-1",
    "null",
    "true",
    "x",
    "[]",
    "{}",
    "[1,2",
    "{a:b",
    "{a:1,a:2}",
    "{1:2}",
    "'",
    '"',
    "\\",
    "a,b",
    "1,2,3",
    "range(1,5)",
    "range(0,1e400)",
    "range(1,5,0)",
    "interval(0,1)",
    "choice(a,b)",
    "glob(*)",
    "sort(3,1,a)",
    "tag(t,1)",
    "shuffle(range(1,9))",
    "int('9')",
    "int(1e400)",
    "float(x)",
    "bool(7)",
    "str(null)",
    "json_str(a)",
    "1e999",
    "nan",
    "-inf",
    "${seed}",
    "${output}",
    "${x}",
    "${",
    "${${seed}}",
    "${oc.env:NOPE}",
    "${oc.create:'a: [1'}",
    "???",
    "${oc.decode:'[[[['}",
    "${stage}",
    "a b  c",
    "ä/ö",
    "\udcff",
    "\x1b[31m",
    "\n",
    "a\nb",
    "%s{}",
    "0x10",
    "1_000",
    ":",
    "#",
)

_ALPHABET = "[]{}(),:='\"\\${}~+@.-_ \t\n#%*&!0123456789eEaxyznulltrue/\x00\x1b\udcff\u202eä"


def _value(rng: random.Random) -> tuple[str, str]:
    chance = rng.random()
    if chance < 0.5:
        return "value", rng.choice(_VALUES)
    if chance < 0.6:
        return "depth", rng.choice("[{(") * rng.choice((8, 33, 300, 5000)) + rng.choice(("", "1"))
    if chance < 0.7:
        depth = rng.choice((8, 31, 33, 400))
        return "closed depth", "[" * depth + "]" * depth
    if chance < 0.8:
        return "digits", rng.choice(("", "-", "1e", "0.", "[", "int('")) + "9" * rng.choice((20, 400, 5000, 70_000))
    return "noise", "".join(rng.choice(_ALPHABET) for _ in range(rng.choice((1, 3, 10, 60))))


def _override(rng: random.Random) -> Case:
    typed, kinds = [], []
    for _ in range(rng.randint(1, 3)):
        kind, value = _value(rng)
        kinds.append(kind)
        typed.append(f"{rng.choice(_KEYS)}={value}" if rng.random() < 0.9 else value)
    sweep = ["-m"] if rng.random() < 0.2 else []
    command = ["target=jetson_nano", *_NOTHING_TO_RUN, *sweep, *typed]
    return Case(f"override: {' + '.join(kinds)}: {ascii(typed)[:80]}", write({}), lambda: main(command))


def overrides(count: int, seed: int) -> Iterator[Case]:
    """Command lines."""
    return generated(count, seed, _override)
