"""Secrets that were planted, and how to find them again, in whatever spelling they come out.

Invariants
* A secret has at least 8 bytes, so that nothing is found by chance.
* Base64 is found wherever in a longer text the secret begins: three spellings, one for each place modulo three.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

_ZEROS = re.compile(rb"\0{64,}")  # of preallocated files, in which nothing is to be looked for


def spellings(secret: bytes) -> set[bytes]:
    """Raw, hex, base64 at any place, percent-encoded, and as JSON and Python write it."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret)[2:-1].encode()}
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):
            text = encode(b"\0" * before + secret)
            # what neighbours have a part in is left away: in front up to a whole character of the secret's own bits, and the last group
            found.add(text[(before * 8 + 5) // 6 : (before + len(secret)) * 8 // 6])
    for spelled in (quote(secret, safe=""), quote(secret, safe="/"), quote_plus(secret)):
        found |= {spelled.encode(), spelled.lower().encode() if "%" in spelled else spelled.encode()}
    with contextlib.suppress(UnicodeDecodeError):
        found.add(json.dumps(secret.decode())[1:-1].encode())
    return found


@dataclass
class Planted:
    """``secrets`` by what they are; ``outputs`` by where they came from: all that left the server, but for where a secret is handed out."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    outputs: dict[str, bytes] = field(default_factory=dict)

    def plant(self, what: str, secret: str | bytes) -> str:
        """Remember it; the text as it was."""
        data = secret.encode() if isinstance(secret, str) else secret
        assert len(data) >= 8, what
        self.secrets[what] = data
        return secret if isinstance(secret, str) else ""

    def put(self, name: str, output: str | bytes) -> None:
        """Something that the server, or a command, gave."""
        data = output.encode() if isinstance(output, str) else output
        self.outputs[name] = self.outputs.get(name, b"") + data + b"\n"

    def put_tree(self, folder: Path, *, but: tuple[str, ...] = ()) -> int:
        """Every file below, names too, but those of these names; how many."""
        count = 0
        for path in _files(folder):
            if path.name not in but:
                self.put(str(path), os.fsencode(path) + b"\n" + _ZEROS.sub(b"\0" * 16, path.read_bytes()))
                count += 1
        return count

    def found(self) -> list[str]:
        """Which secret is where, and in which spelling, without showing it."""
        told = []
        for what, secret in self.secrets.items():
            forms = spellings(secret)
            for name, output in self.outputs.items():
                form = next((form for form in forms if form in output), None)
                if form is not None:
                    at = output.index(form)
                    around = output[max(0, at - 60) : at].decode("latin-1")
                    told.append(f"{what} ({len(form)} bytes) in {name} at {at}, behind {around!r}")
        return told


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
