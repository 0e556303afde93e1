"""Results on disk, one JSON file for each: an interrupted run goes on where it stopped, and old results stay when something changes.

Invariants
* A file's name ends in a hash of everything that defines the result: server with version, command, environment and code, client with
  version, cell, round, processors, machine and disk. Another definition is another file.
* A file appears whole or not at all.
* What failed is kept as well, to be read; it is measured again when asked for again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from bench.peers.outcome import Outcome


class Entry(msgspec.Struct):
    """A result and what defines it."""

    definition: dict[str, Any]
    outcome: Outcome


class Store:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, definition: dict[str, Any]) -> Path:
        """Where the result of this definition is."""
        text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        cell = definition["cell"]
        name = f"{cell['operation']}-{cell['size']}-c{cell['concurrency']}-{definition['server']['name']}-r{definition['round']}"
        return self.folder / f"{name}-{digest}.json"

    def get(self, definition: dict[str, Any]) -> Outcome | None:
        """The result, if there is one; SystemExit if its file is not one."""
        path = self.path(definition)
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Entry).outcome
        except msgspec.DecodeError as error:
            raise SystemExit(f"{path} is damaged ({error}); delete it to measure again") from None

    def put(self, definition: dict[str, Any], outcome: Outcome) -> Path:
        """Keep a result."""
        path = self.path(definition)
        text = msgspec.json.format(msgspec.json.encode(Entry(definition, outcome)), indent=1)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(text + b"\n")
        os.replace(fresh, path)
        return path
