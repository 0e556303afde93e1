"""How many bytecodes of Python a piece of work executes: the same on every machine, however busy it is.

Invariants
* Counted is what runs in any thread while ``counted`` is open, in whatever file, but for frames of the benchmarks themselves and
  frames that were entered before.
* A function of C counts as the one bytecode that calls it: what it costs is for ``turns`` to see.
* The first turn of a piece of work is not worth its count: from 3.12 on the interpreter counts a function's bytecodes from its
  second call.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_DRIVERS = str(Path(__file__).resolve().parents[1]) + "/"  # what is in bench/ asks for the work, and is none of it
_Trace = Callable[[FrameType, str, Any], Any]


class _Function:
    """A code object and how many of its bytecodes were executed."""

    __slots__ = ("code", "count")

    def __init__(self, code: CodeType) -> None:
        self.code, self.count = code, 0

    def trace(self, frame: FrameType, event: str, argument: Any) -> None:
        """What the interpreter calls inside of it."""
        if event == "opcode":
            self.count += 1


class Bytecodes:
    """Make one, and ``install`` it before the threads start that are to be counted."""

    def __init__(self) -> None:
        self._functions: dict[int, tuple[_Function, _Trace]] = {}
        self._counting = False

    def install(self) -> None:
        """For this thread and all that ``threading`` starts from now on."""
        sys._getframe().f_trace_opcodes = True  # 3.12 gives no bytecodes to a trace function that was set before the first frame like this
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> _Trace | None:
        """A frame begins, or goes on after a wait."""
        if not self._counting:
            return None
        code = frame.f_code
        if code.co_filename.startswith(_DRIVERS):
            return None
        found = self._functions.get(id(code))
        if found is None:
            function = _Function(code)  # keeps the code, so that no other gets its id
            found = self._functions[id(code)] = function, function.trace
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return found[1]

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """From nought."""
        for function, _ in self._functions.values():
            function.count = 0
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    @property
    def total(self) -> int:
        """Bytecodes executed inside the last ``counted``."""
        return sum(function.count for function, _ in self._functions.values())

    def by_function(self) -> list[tuple[int, CodeType]]:
        """The same by function, the largest first."""
        found = [(function.count, function.code) for function, _ in self._functions.values() if function.count]
        return sorted(found, key=lambda item: (-item[0], item[1].co_qualname))
