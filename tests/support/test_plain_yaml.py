"""Whatever a text is, the reader gives plain values of bounded size, or one line."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.config.schema import load_target
from compress.core.errors import ConfigError
from compress.support.plain_yaml import MOST_NODES, fits, parse_yaml, read_yaml
from compress.support.resources import conf_folder, targets_folder

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
REFUSED = {
    "syntax": ("a: [", "F is not YAML: .*line 2"),
    "open brackets": ("[" * 5000, "exceeded maximum nesting depth|nested more than 32 deep"),
    "brackets": ("[" * 33 + "]" * 33, "line 1: nested more than 32 deep"),
    "block": ("- " * 5000 + "x", "nested more than 32 deep"),
    "depth through aliases": (
        "a: &a [[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]\nb: &b [[[[[[[[[[[[*a]]]]]]]]]]]]\n",
        "line 2: nested more than 32 deep",
    ),
    "laughs": (LAUGHS, "more than 100,000 values"),
    "recursive": ("a: &a [*a]", r"the alias \*a lies in what it stands for"),
    "recursive mapping": ("&a {b: *a}", r"the alias \*a lies in"),
    "no anchor": ("a: *b", r"the alias \*b has no anchor"),
    "set": ("a: !!set {x, y}", "the tag '!!set' names a type"),
    "int": ("!!int 5", "the tag '!!int' names a type"),
    "float": ("a: !!float x", "the tag '!!float' names a type"),
    "program": ("!!python/object/apply:os.system [true]", "names a type"),
    "digits": ("a: " + "9" * 5000, "a number of 5000 characters"),
    "wide": ("a: 18446744073709551616", "does not fit 64 bits"),
    "no digits": ("a: 0b_", "'0b_' is no number"),
    "number key": ("1: a", "the key 1 is no text"),
    "null key": ("~: a", "the key None is no text"),
    "list key": ("? [a]\n: 1", "a list or mapping is used as a key"),
    "alias key": ("a: &a [1]\n? *a\n: 1", "an alias is used as a key"),
    "twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' comes twice"),
    "merge": ("a: &a {x: 1}\nb: {<<: *a}", "<< merges mappings"),
    "documents": ("a: 1\n---\nb: 1", "a second document begins"),
    "control": ("a: \0", "F is not YAML"),
    "surrogate": ("a: \udcff", "characters that cannot be written"),
    "long": ("a: " + "x" * 70_000, "a text of more than 65,536 characters"),
    "many": ("[" + "1," * MOST_NODES + "]", "more than 100,000 values"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_more_than_plain_values_is_one_line(kind):
    text, message = REFUSED[kind]
    started = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "F")
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1e-3", {"a": 1e-3}),
        ("a: 2001-13-45", {"a": "2001-13-45"}),
        ("a: 2001-01-01", {"a": "2001-01-01"}),
        ("'1': 007", {"1": 7}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: &x 1\nb: [*x, *x]", {"a": 1, "b": [1, 1]}),
        ("&k a: 1\nb: *k", {"a": 1, "b": "a"}),
        ("[" * 32 + "]" * 32, None),
        ("a: '<<'\nb: <<\n'<<': c", {"a": "<<", "b": "<<", "<<": "c"}),
        ("\ufeffa: .inf", {"a": float("inf")}),
    ],
)
def test_plain_values_are_read(text, value):
    read = parse_yaml(text, "F")
    assert value is None or read == value


def test_aliases_give_values_of_their_own():
    read = parse_yaml("a: &x [1]\nb: *x", "F")
    read["a"].append(2)
    assert read["b"] == [1]


def test_texts_stay_as_they_are_written():
    assert parse_yaml("007: 0x10\n'1': null\n~: 1.50", "F", texts=True) == {"007": "0x10", "1": "null", "~": "1.50"}


@pytest.mark.parametrize(
    "path", [*conf_folder().rglob("*.yaml"), *targets_folder().glob("*.yaml")], ids=lambda path: path.stem
)
def test_our_own_files_mean_what_hydra_reads_in_them(path):
    assert read_yaml(path) == OmegaConf.to_container(OmegaConf.load(path), resolve=False)


def test_a_target_of_strange_values_is_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text(LAUGHS)
    with pytest.raises(ConfigError, match=r"mine\.yaml, line \d+: more than 100,000 values"):
        load_target("mine", [tmp_path])


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or isinstance(value, bool | float | str) or (isinstance(value, int) and fits(value))


TOKENS = st.sampled_from(
    [
        "a",
        "b",
        "1",
        "'",
        '"',
        ": ",
        "- ",
        "? ",
        "\n",
        " ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a ",
        "*a",
        "!!set ",
        "!!int ",
        "!x ",
        "<<: ",
        "|\n",
        ">\n",
        "---\n",
        "...\n",
        "#",
        "%",
        "\t",
        "\0",
        "\udcff",
        "~",
        "1e9",
        ".nan",
        "0x",
        "1:60",
        "2001-13-45",
        "9" * 5000,
        "[" * 40,
        "\u2028",
        "${a}",
    ]
)


def check(text: str) -> None:
    try:
        value = parse_yaml(text, "F")
    except ConfigError as refusal:
        value, line = None, str(refusal)
        assert "\n" not in line
    assert plain(value)
    try:
        theirs = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if isinstance(value, dict) else value
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError):
        return  # what is taken here may be refused there: an interpolation without end
    assert repr(theirs) == repr(value)


TEXTS = st.lists(TOKENS, max_size=25).map("".join) | st.text(max_size=40)


@given(TEXTS)
@example(LAUGHS)
@example("a: &a {b: *a}")
@example("? !!set {a}\n: *a")
@example("a: 1_000\nb: 0o7\nc: 08\nd: 1_.5e+3")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_plain_values_or_one_line(text):
    check(text)


@pytest.mark.slow
@given(TEXTS)
@settings(max_examples=30_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_texts_are_plain_values_or_one_line(text):
    check(text)
