"""Operator logs on standard error: text for people, JSON lines for machines.

Invariants
* One line a record; the lines of an exception's traceback follow, indented, so that none passes for a record. Control characters of
  what strangers send are escaped.
* Every line that belongs to a request has its request id and, if it is traced, its trace id (see ``asking``).
* No secret is ever handed to a logger.
"""

from __future__ import annotations

import logging
import sys
import time

import msgspec

from titans3.observe.asking import Attribution

_TEXT_FIELDS = ("request_id", "trace_id", "client")


class _Text(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower():7} {self._process} {record.name}:"
        parts = [head, escape(record.getMessage())]
        parts += [f"{name}={escape(str(record.__dict__[name]))}" for name in _TEXT_FIELDS if name in record.__dict__]
        line = " ".join(parts)
        if record.exc_info:
            line += "".join(f"\n    {escape(text)}" for text in self.formatException(record.exc_info).split("\n"))
        return line


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "process": self._process,
            "logger": record.name, "message": record.getMessage(),
        }
        fields.update({name: record.__dict__[name] for name in _TEXT_FIELDS if name in record.__dict__})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode({name: _encodable(value) for name, value in fields.items()}).decode()


def _encodable(value: object) -> object:
    """Text that came as bytes that are no UTF-8 holds surrogates, which JSON cannot."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def escape(text: str) -> str:
    """Text without control characters, so that nobody can forge a line or steer a terminal."""
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def set_up(process: str, level: str, form: str) -> None:
    """Log this process to standard error; ``form`` is ``text`` or ``json``. Can be repeated; handlers that write to no stream stay."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text(process))
    handler.addFilter(Attribution())
    root = logging.getLogger()
    root.handlers[:] = [handler, *(kept for kept in root.handlers if not isinstance(kept, logging.StreamHandler))]
    root.setLevel(level.upper())
