"""The file of budgets: what each case cost when it was last accepted, for each version of Python, and by how much it may be more.

Bytecodes differ between versions of Python (3.11, 3.12), not between 3.11.2 and 3.11.7, nor between machines; times beside the reference
differ a little between machines. ``update`` knows only the Python it runs under: what was accepted for the others is changed in proportion,
until somebody updates it there.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

BYTECODES, TIME = KINDS = "bytecodes", "time"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
FILE = Path(__file__).with_name("budgets.toml")
_START = """\
# What the steps of the hot path cost when they were last accepted. Written by `python tools/dev.py bench gate --update`; a figure that
# rises needs a reason in docs/internals/hot-path.md. bytecodes: of Python, for one operation; time: processor time of one operation, in
# thousandths of the reference's. headroom: by what part of it a figure may be more.
"""
Figures = dict[str, float]  # by case


class Row(msgspec.Struct, frozen=True):
    """A case as it is now, and what it may cost."""

    name: str
    kind: str
    now: float
    budget: float  # nought if there is none

    @property
    def share(self) -> float:
        """Of the budget; infinite without one."""
        return self.now / self.budget if self.budget else float("inf")


class Budgets:
    """Of all versions of Python. ``accepted``: by version, kind and case."""

    def __init__(self, headroom: dict[str, float], accepted: dict[str, dict[str, Figures]]) -> None:
        self.headroom, self.accepted = headroom, accepted

    @classmethod
    def read(cls, path: Path) -> Budgets:
        """Raises OSError, ValueError for what is no file of budgets."""
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        headroom = found.pop("headroom", {})
        if set(headroom) != set(KINDS) or not all(set(kinds) == set(KINDS) for kinds in found.values()):
            raise ValueError(f"{path} is no file of budgets: headroom and every version of Python have {' and '.join(KINDS)}")
        return cls(headroom, {version.removeprefix("python-"): kinds for version, kinds in found.items()})

    def write(self, path: Path) -> None:
        """The same file again for the same figures."""
        lines = [_START, "[headroom]", *(f"{kind} = {self.headroom[kind]:g}" for kind in KINDS)]
        for version in sorted(self.accepted, key=lambda text: [int(part) for part in text.split(".")]):
            for kind in KINDS:
                lines += ["", f'["python-{version}".{kind}]']
                lines += [f"{name} = {value!r}" for name, value in self.accepted[version][kind].items()]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def is_known(self) -> bool:
        """Whether there are any for this Python."""
        return HERE in self.accepted

    def judge(self, kind: str, measured: Mapping[str, float]) -> list[Row]:
        """A row for each case."""
        accepted, most = self.accepted.get(HERE, {}).get(kind, {}), 1 + self.headroom[kind]
        return [Row(name, kind, now, accepted.get(name, 0.0) * most) for name, now in measured.items()]

    def update(self, kind: str, measured: Mapping[str, float]) -> None:
        """Accept what was measured."""
        mine = self.accepted.setdefault(HERE, {each: {} for each in KINDS})[kind]
        for name, now in measured.items():
            before = mine.get(name)
            mine[name] = rounded(now)
            for version, kinds in self.accepted.items():
                if version != HERE and before and name in kinds[kind]:
                    kinds[kind][name] = rounded(kinds[kind][name] * now / before)


def rounded(value: float) -> float:
    """Four digits, whole numbers from a thousand on."""
    return round(value) if value >= 1000 else float(f"{value:.4g}")
