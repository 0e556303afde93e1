"""Pages of the documentation as tests read them: fenced blocks, and the heading that each stands under."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LINE = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$|^#+ (?P<heading>[^\n]+)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. ``number``: the how-manieth of its language under its heading, from 0."""

    heading: str
    number: int
    text: str


def sections(page: Path, language: str) -> list[Block]:
    """Blocks of a language, in order."""
    found: list[Block] = []
    heading, number = "", 0
    for match in _LINE.finditer(page.read_text(encoding="utf-8")):
        if match["heading"]:
            heading, number = match["heading"], 0
        elif match["language"] == language:
            found.append(Block(heading, number, match["text"]))
            number += 1
    return found


def blocks(page: Path, language: str) -> list[str]:
    """Their texts."""
    return [block.text for block in sections(page, language)]
