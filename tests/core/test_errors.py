from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.__main__ import main
from compress.core.errors import CompressError, one_line


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_one_line_that_a_terminal_does_not_obey(text):
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}
    shown.encode()


@given(st.text(), st.integers(1, 50))
def test_a_text_is_bounded(text, limit):
    assert len(one_line(text, limit)) <= limit


@pytest.mark.parametrize("text", ["über 50 °C", "模型 3×3", "a\\b 'c'", ""])
def test_ordinary_text_stays(text):
    assert one_line(text) == text


def test_an_error_is_one_line_whatever_is_in_it():
    error = CompressError("no model 'x\nerror: forged\x1b[2J\u2028'", fix="rename\r\n it")
    assert str(error) == r"no model 'x\nerror: forged\x1b[2J\u2028' | fix: rename\r\n it"


def test_the_command_line_prints_one_line(capsys):
    assert main(["target=x\nerror: forged \x1b[2J"]) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert "\x1b" not in errors
