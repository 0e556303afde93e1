"""Operator logs: nobody can forge a line, whatever he sends."""

from __future__ import annotations

import contextvars
import json
import logging
import re
from collections.abc import Iterator

import pytest

from titans3.observe.asking import ASKING
from titans3.observe.logs import escape, set_up

HOSTILE = "key\n2026-01-01T00:00:00.000Z error   supervisor: all is lost\r\x1b[2J\x07 \u202e ü 🙂 \udcff"


@pytest.fixture(autouse=True)
def kept_loggers() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def fail() -> None:
    raise ValueError(HOSTILE)


def log_failure() -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("titans3.x").exception("failed on %s", HOSTILE, extra={"request_id": "7\n8", "client": "::1"})


def test_text_is_one_line_a_record_and_tracebacks_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("worker 3", "info", "text")
    log_failure()
    logging.getLogger("titans3.x").debug("not shown")
    text = capsys.readouterr().err
    first, *rest = text.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z error   worker 3 titans3\.x: failed on key\\n2026", first)
    assert first.endswith("request_id=7\\n8 client=::1")
    assert len(rest) > 3 and all(line.startswith("    ") for line in rest)
    assert all(char.isprintable() or char == "\n" for char in text)


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("worker 3", "info", "json")
    log_failure()
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert record["message"].startswith("failed on key\n2026") and record["message"].endswith("\\udcff")
    assert (record["level"], record["process"], record["request_id"]) == ("error", "worker 3", "7\n8")
    assert "ValueError" in record["traceback"]


def test_setting_up_again_changes_the_level_and_adds_no_handler(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("supervisor", "error", "text")
    set_up("supervisor", "debug", "text")
    logging.getLogger("titans3.y").debug("once")
    assert capsys.readouterr().err.count("once") == 1


def test_escape_keeps_what_can_be_printed() -> None:
    assert escape("a ü 🙂 b") == "a ü 🙂 b"
    assert escape("\x00\t\x7f\u2028") == "\\x00\\t\\x7f\\u2028"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_within_a_request_says_whose_it_is(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up("worker 3", "info", form)
    serving = [("R1", "")]

    def log() -> None:
        ASKING.set(lambda: serving[0])
        logging.getLogger("titans3.deep").warning("slow")
        serving[0] = ("R2", "ab" * 16)
        logging.getLogger("titans3.deep").warning("slow")
        logging.getLogger("titans3.deep").warning("of another", extra={"request_id": "R9"})
        serving[0] = ("", "")
        logging.getLogger("titans3.deep").warning("between")

    contextvars.copy_context().run(log)
    logging.getLogger("titans3.deep").warning("elsewhere")
    lines = capsys.readouterr().err.splitlines()
    traced = f"trace_id={'ab' * 16}" if form == "text" else f'"trace_id":"{"ab" * 16}"'
    named = ["R1", "R2", "R9", None, None]
    assert [next((name for name in ("R1", "R2", "R9") if name in line), None) for line in lines] == named
    assert [traced in line for line in lines] == [False, True, False, False, False]
