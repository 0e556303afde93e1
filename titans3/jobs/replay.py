"""What a stopped volume holds: the rows of its last checkpoint and, in memory alone, what its log holds behind them.

Invariants
* The rules of ``titans3.cluster.groups`` for replay hold here: in log order, exactly once, nothing of a damaged group.
* Nothing is written. Memory: what the log holds behind the last checkpoint, some ten thousand rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lmdb
import msgspec

from titans3.engine.location import BODY, loc_key, pack_location
from titans3.engine.record import ENTRY, Record
from titans3.engine.recovery import Recovery
from titans3.errors import DiskError, FormatError
from titans3.jobs.verify import OfflineVolume, Report, replay_of
from titans3.meta.environment import GroupState, Position
from titans3.meta.machine import Machine
from titans3.meta.rows import RowDamaged
from titans3.meta.view import View
from titans3.model.command import Outcome, decode_command


class Replayed:
    """The rows of one volume as its next start would have them; a context."""

    def __init__(self, volume: OfflineVolume) -> None:
        """Reads the log. Raises DiskError for metadata that cannot be read."""
        self.volume = volume
        self.report = Report()
        volume.read_headers(self.report)
        self.states: dict[int, GroupState] = volume.environment.groups()
        self.view = View(volume.environment)
        self.machine = Machine(self.view, self)
        self.machine.times.update({gid: state.time_ms for gid, state in self.states.items()})
        self.replayed = 0
        self.position = volume.environment.position() or Position(0, 0, 0, 0)  # where the log ends
        try:
            self.recovery: Recovery = replay_of(volume, self.report, self._take, self._end_at)
            self.machine.put_dirty()
        except BaseException:
            self.view.close()
            raise
        self._mark()

    def _end_at(self, segment: int, offset: int, batch: int) -> None:
        epoch = max([self.position.epoch, *(header.epoch for header in self.volume.headers.values())])
        self.position = Position(segment, offset, batch, epoch)

    def close(self) -> None:
        """End the read transaction."""
        self.view.close()

    def _mark(self) -> None:
        for gid, cause in self.recovery.damaged.items():
            self._state(gid).damaged = cause
        for gid, state in self.states.items():
            state.damaged = state.damaged or self.recovery.unproven
            state.time_ms = self.machine.times.get(gid, 0)

    def _state(self, gid: int) -> GroupState:
        return self.states.setdefault(gid, GroupState())

    def free(self, data_id: bytes) -> int:
        """A small body is dead."""
        self.view.put_loc(loc_key(data_id), None)
        return 0

    def _take(self, record: Record, segment: int, offset: int) -> None:
        state = self._state(record.gid)
        if record.kind != ENTRY or record.index <= state.applied or state.damaged:
            return
        if record.index != state.applied + 1 or record.prev_term != state.applied_term:
            state.damaged = f"entry {record.index} does not follow {state.applied}"
            return
        try:
            apply_record(self.machine, record, lambda: self._keep(record, segment, offset))
        except RowDamaged as error:
            state.damaged = str(error)
            return
        self.replayed += 1
        state.applied, state.applied_term, state.term = record.index, record.term, record.term

    def _keep(self, record: Record, segment: int, offset: int) -> None:
        self.view.put_loc(loc_key(record.data_id), pack_location(segment, offset, record.stored_bytes, BODY))

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Every logical kv row, in no order. Raises DiskError (RowDamaged) for one that does not hold."""
        overlay = self.view.active.kv
        environment = self.volume.environment
        try:
            with environment.begin() as transaction:
                for key, value in environment.layers.rows(transaction):
                    if key not in overlay:
                        yield key, value
        except lmdb.Error as error:
            raise DiskError(f"{self.volume.path}/meta: the tree cannot be walked: {error}") from error
        for key, replayed in overlay.items():
            if replayed is not None:
                yield key, replayed


def apply_record(machine: Machine, record: Record, keep: Callable[[], None]) -> Outcome:
    """Apply an entry; ``keep`` is called if its body is alive. Raises FormatError for an entry of a newer version, RowDamaged."""
    try:
        command = decode_command(record.command)
    except (LookupError, msgspec.MsgspecError) as error:
        raise FormatError(f"group {record.gid}, index {record.index}: {error}; a newer TitanS3 has to read this") from error
    is_repeat = bool(record.body) and machine.is_repeat(record.gid, command)
    outcome = machine.apply(record.gid, record.index, command)
    if len(record.body) and not outcome.reason and not is_repeat:
        keep()
    return outcome
