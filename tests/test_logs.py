from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import TEXT_MAX, JsonFormatter, TextFormatter


def record(message: str, **fields: Any) -> logging.LogRecord:
    """A log record with fields."""
    made = logging.LogRecord("service.test", logging.INFO, __file__, 1, message, None, None)
    made.fields = fields
    return made


@given(st.text(), st.text(), st.integers(), st.none() | st.booleans() | st.floats(allow_nan=False))
def test_whatever_is_logged_is_one_json_object_on_one_line(message: str, text: str, number: int, other: Any):
    """Line feeds, quotes, lone surrogates and large numbers do not break a line."""
    number %= 2**63
    line = JsonFormatter().format(record(message, text=text, number=number, other=other))
    assert len(line.splitlines()) == 1 or "\n" not in line
    document = json.loads(line.encode())
    assert document["number"] == number
    assert {"time", "level", "logger", "message", "text"} <= document.keys()


def test_a_long_value_is_cut_and_says_how_long_it_was():
    """What a client sends cannot make a line long."""
    document = json.loads(JsonFormatter().format(record("x" * 9000, path="y" * 8000)))
    assert len(document["path"]) < TEXT_MAX + 50
    assert "8000" in document["path"]
    assert "9000" in document["message"]


def test_a_lone_surrogate_is_written_as_an_escape():
    """Text that has no UTF-8 is still a line."""
    assert json.loads(JsonFormatter().format(record("m", text="\ud800")))["text"] == "\\ud800"


def test_the_text_format_has_the_same_fields_behind_the_message():
    """For eyes: clock, level, message, name=value."""
    line = TextFormatter().format(record("refused", code="invalid_json", status=400))
    assert re.fullmatch(r"\d\d:\d\d:\d\d info +refused code='invalid_json' status=400", line)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_bug_comes_with_its_traceback(formatter: logging.Formatter):
    """Where it was raised, so that it can be mended."""
    try:
        raise KeyError("planted")
    except KeyError as error:
        made = logging.LogRecord("x", logging.ERROR, __file__, 1, "a bug", None, (KeyError, error, error.__traceback__))
    assert "KeyError: 'planted'" in formatter.format(made)
