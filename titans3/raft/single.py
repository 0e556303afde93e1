"""The one-voter core behind the Raft seam: a group whose quorum is its own disk. Pure. Hot: once per entry.

Invariants
* An entry is committed exactly when it is durable, in index order; nothing is ever truncated.
* The term rises by one with the first proposal after a start. The record carries the new term, which is the hard state:
  a sole voter votes for itself, so no write of its own is needed. With more voters the full core takes this place.
"""

from __future__ import annotations

from titans3.raft.ready import Entry, Ready

VOTER = 1


class SingleVoter:
    """One group. ``last_index``/``last_term`` describe the last durable entry."""

    __slots__ = ("_appended", "_fresh", "_persisting", "_token", "applied", "last_index", "last_term", "term")

    def __init__(self, *, term: int, last_index: int, last_term: int, applied: int) -> None:
        assert applied == last_index, "a sole voter has applied all it has"
        self.term, self.last_index, self.last_term, self.applied = term, last_index, last_term, applied
        self._fresh = True
        self._appended: list[Entry] = []
        self._persisting: dict[int, list[Entry]] = {}
        self._token = 0

    def propose(self, data: bytes, context: object = None) -> tuple[int, int]:
        """(index, term) of the new entry."""
        if self._fresh:
            self.term = max(self.term, self.last_term) + 1
            self._fresh = False
        index = self.last_index + 1
        self._appended.append(Entry(index, self.term, self.last_term, data, context))
        self.last_index, self.last_term = index, self.term
        return index, self.term

    def has_ready(self) -> bool:
        """Whether ``ready`` has something to write."""
        return bool(self._appended)

    def ready(self) -> Ready:
        """Entries to make durable."""
        self._token += 1
        entries, self._appended = self._appended, []
        self._persisting[self._token] = entries
        return Ready(self._token, entries, [])

    def persisted(self, token: int) -> list[Entry]:
        """The write of a ``ready`` is durable: its entries are committed, in order."""
        return self._persisting.pop(token)

    def applied_to(self, index: int) -> None:
        """The driver applied up to here."""
        assert index == self.applied + 1, (index, self.applied)
        self.applied = index
