"""The groups of one volume: proposals go through the Raft seam into the log, come back flushed, and are applied in order. Hot.

Invariants
* No caller bypasses the seam: ``propose`` → ``SingleVoter.propose`` → ``ready`` → ``Volume.append`` → flushed → ``persisted`` → apply.
* Apply happens on the loop, in log order, only for entries whose flush returned (I1, I2); after a restart, replay skips what a
  group's checkpointed applied index covers: exactly once (I3).
* A body of a small object is kept (``put_loc``) exactly when its command succeeded for the first time.
* A group whose log is not proven whole, or whose rows an entry cannot be applied to, is damaged: it takes no write and reads of it are
  answered with what is there. The damage is part of its state, so a checkpoint does not make it forgotten.
* An entry that this build does not know ends the opening (FormatError) or the process (InvariantError): it is never skipped.
* Whatever goes wrong in apply or in a checkpoint ends the volume's writes: every waiting proposal gets the error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from titans3.clock import Clock
from titans3.engine.log import Flushed
from titans3.engine.metadata import StoredMeta
from titans3.engine.record import ENTRY, NO_DATA, Record
from titans3.engine.recovery import Recovery
from titans3.engine.volume import Volume
from titans3.errors import ClientError, DiskError, FormatError, Reason, VolumeFull
from titans3.limits import COMMAND_BYTES_MAX, GROUPS, MIB, SYSTEM_GROUP
from titans3.meta.checkpoint import Checkpointer, CheckpointOptions
from titans3.meta.environment import Checkpoint, Environment, GroupState, Position
from titans3.meta.machine import Machine
from titans3.meta.rows import RowDamaged
from titans3.meta.view import View
from titans3.model.command import Command, Outcome, decode_command, encode_command
from titans3.observe.failpoint import hit
from titans3.raft.single import SingleVoter

UNCOMMITTED_BYTES_MAX = 64 * MIB  # proposed and not yet applied, of one volume
GROUP_UNCOMMITTED_BYTES_MAX = 16 * MIB
_logger = logging.getLogger("titans3.groups")


class _Pending(msgspec.Struct, gc=False):
    """A proposal on its way: decoded command, who waits, its bytes and the token of its write."""

    command: Command
    future: asyncio.Future[Outcome]
    size: int
    token: int = 0


class _Group(msgspec.Struct, eq=False):
    """A group that takes proposals. ``uncommitted``: bytes that are proposed and not yet applied."""

    voter: SingleVoter
    state: GroupState
    uncommitted: int = 0


class GroupStatistics(msgspec.Struct, frozen=True):
    """Counters since the volume was opened."""

    groups: int
    proposed: int
    applied: int
    refused: int
    replayed: int
    uncommitted_bytes: int
    damaged: int


def _tell(pending: Iterable[_Pending], error: DiskError) -> None:
    for item in pending:
        if not item.future.done():
            item.future.set_exception(error)
            item.future.exception()  # a waiter that went away is no reason for a warning


class GroupSet:
    """Groups of one volume, and its checkpoints. Loop thread."""

    def __init__(self, volume: Volume, clock: Clock, options: CheckpointOptions | None = None) -> None:
        self.volume = volume
        self._clock = clock
        self._options = options
        self._groups: dict[int, _Group] = {}
        self._states: dict[int, GroupState] = {}
        self._touched: set[int] = set()
        self._uncommitted_bytes = 0
        self._proposed = self._applied = self._refused = self._replayed = 0
        self._pending: dict[tuple[int, int], _Pending] = {}
        self.view: View
        self.environment: Environment
        self.machine: Machine
        self.checkpointer: Checkpointer
        self.recovery = Recovery()
        self.failure: DiskError | None = None
        self._is_closing = False
        self.on_failed: Callable[[DiskError], None] = lambda error: None

    # start and stop ------------------------------------------------------------------------------------------------

    async def open(self, closed_at: Position | None = None) -> Recovery:
        """Open the volume, replay, be ready; ``closed_at``: see ``Volume.recover``. Raises DiskError, FormatError; the volume is given
        back then."""
        try:
            return await self._open(closed_at)
        except BaseException:
            await self.volume.close()
            raise

    async def _open(self, closed_at: Position | None) -> Recovery:
        volume = self.volume
        volume.on_flushed, volume.on_failed, volume.on_starved = self._flushed, self._volume_failed, self._volume_starved
        await volume.open()
        meta = volume.meta
        assert isinstance(meta, StoredMeta)
        self.view, self.environment = meta.view, meta.environment
        self.machine = Machine(self.view, volume)
        self._states = self.environment.groups()
        self.machine.times.update({gid: state.time_ms for gid, state in self._states.items()})
        self.recovery = await volume.recover(self._replay, closed_at)
        self._mark_recovered(self.recovery)
        self.checkpointer = Checkpointer(
            self.view, self.environment, begin=self._begin_checkpoint, ended=volume.checkpoint_ended,
            on_failed=volume.fail, options=self._options,
        )
        self.checkpointer.start()
        self.view.serve()
        return self.recovery

    async def close(self, *, checkpoint: bool = True) -> None:
        """Flush, checkpoint, close the volume. Proposals are refused from now on, and those under way are answered."""
        self._is_closing = True
        if self.failure is None:
            await self.volume.drain()
        await self.checkpointer.close(checkpoint=checkpoint and self.failure is None)
        await self.volume.close()

    def _state(self, gid: int) -> GroupState:
        state = self._states.get(gid)
        if state is None:
            state = self._states[gid] = GroupState()
        return state

    def _group(self, gid: int) -> _Group:
        """Of a first proposal."""
        state = self._state(gid)
        voter = SingleVoter(term=state.term, last_index=state.applied, last_term=state.applied_term, applied=state.applied)
        group = self._groups[gid] = _Group(voter, state)
        return group

    def _mark_recovered(self, recovery: Recovery) -> None:
        """Damage that replay found becomes part of the states: the next checkpoint moves the position past it."""
        for gid, cause in recovery.damaged.items():
            self._mark_damaged(gid, cause)
        if recovery.unproven:
            _logger.error("no group of %s is proven whole: %s", self.volume.path, recovery.unproven)
            for gid in (*range(GROUPS), SYSTEM_GROUP):
                self._state(gid).damaged = self._state(gid).damaged or recovery.unproven
                self._touched.add(gid)

    def _mark_damaged(self, gid: int, cause: str) -> None:
        self._state(gid).damaged = cause
        self._touched.add(gid)
        _logger.error("group %d is damaged: %s", gid, cause)

    def damage_of(self, gid: int) -> str:
        """Why a group takes no write, empty if it does."""
        state = self._states.get(gid)
        return "" if state is None else state.damaged

    def damage(self) -> str:
        """Why some group is damaged, empty if none is."""
        return next((state.damaged for state in self._states.values() if state.damaged), "")

    def _replay(self, record: Record, segment: int, offset: int) -> None:
        if record.kind != ENTRY:
            return
        state = self._state(record.gid)
        if record.index <= state.applied:
            return
        if record.index != state.applied + 1 or record.prev_term != state.applied_term:
            if not state.damaged:
                self._mark_damaged(record.gid, f"entry {record.index} does not follow {state.applied}")
            return
        if state.damaged:
            return
        self._replayed += 1
        try:
            command = decode_command(record.command)
        except (LookupError, msgspec.MsgspecError) as error:  # whole, by its checksum, so it was written like this
            where = f"{self.volume.path}, group {record.gid}, index {record.index}"
            raise FormatError(f"{where}: {error}; a newer TitanS3 has to be started here") from error
        try:
            self._apply(record, command, segment, offset, fresh=False)
        except RowDamaged as error:
            self._mark_damaged(record.gid, str(error))

    # proposals -----------------------------------------------------------------------------------------------------

    def propose(self, gid: int, command: Command, body: bytes | memoryview = b"", data_id: bytes = NO_DATA) -> asyncio.Future[Outcome]:
        """Outcome once the entry is durable and applied; a command with a body knows its ``body_checksum``.

        Raises ClientError(UNAVAILABLE) for a damaged group or failed volume, VOLUME_FULL for one whose log has no room, SLOW_DOWN with
        too much in flight or when it is closing, TOO_LARGE.
        The future gets a DiskError when the volume fails before the flush returned, or its log waits long for room: then it may
        yet be written.
        """
        group = self._groups.get(gid)
        damage = self.damage_of(gid) if group is None else group.state.damaged
        if self.failure is not None or damage:
            raise ClientError(Reason.UNAVAILABLE, str(self.failure or damage))
        if self._is_closing:
            raise ClientError(Reason.SLOW_DOWN, "the volume is being closed", moving=1)
        volume = self.volume
        if volume.log_waits:
            raise ClientError(Reason.VOLUME_FULL, volume.full_cause)
        data = encode_command(command)
        size = len(data) + len(body)
        group = group or self._group(gid)
        checksum = command.body_checksum if len(body) else -1  # type: ignore[attr-defined]
        if size > COMMAND_BYTES_MAX:  # before the voter: an index that is never appended would be a hole in the log
            raise ClientError(Reason.TOO_LARGE, f"an entry of {size} bytes")
        in_group, in_all = group.uncommitted + size, self._uncommitted_bytes + size
        if in_group > GROUP_UNCOMMITTED_BYTES_MAX or in_all > UNCOMMITTED_BYTES_MAX:
            raise ClientError(Reason.SLOW_DOWN)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        group.voter.propose(data, _Pending(command, future, size))
        group.uncommitted, self._uncommitted_bytes = in_group, in_all
        self._proposed += 1
        ready = group.voter.ready()
        for entry in ready.entries:
            index, pending = entry.index, entry.context
            assert isinstance(pending, _Pending)
            pending.token = ready.token
            self._pending[gid, index] = pending
            volume.append(Record(gid, index, entry.term, entry.prev_term, entry.data, body, data_id, ENTRY, 0, checksum))
        return future

    def _flushed(self, flushed: list[Flushed]) -> None:
        """A flush returned: its entries are committed; apply and answer."""
        if self.failure is not None:
            return
        try:
            for item in flushed:
                if item.record.kind == ENTRY:
                    self._commit(item)
        except Exception as error:
            self.volume.fail(DiskError(f"an entry cannot be applied: {error!r}"))
            raise
        self.checkpointer.check()

    def _commit(self, item: Flushed) -> None:
        record = item.record
        gid = record.gid
        pending = self._pending.pop((gid, record.index))
        group = self._groups[gid]
        group.voter.persisted(pending.token)
        group.uncommitted -= pending.size
        self._uncommitted_bytes -= pending.size
        try:
            if group.state.damaged:
                raise DiskError(group.state.damaged)  # the entry was on its way when the damage was found
            outcome = self._apply(record, pending.command, item.segment, item.offset, fresh=True)
        except DiskError as error:
            if isinstance(error, RowDamaged):
                self._mark_damaged(gid, str(error))
            if not pending.future.done():
                pending.future.set_exception(error)
            return
        except Exception:
            self._pending[gid, record.index] = pending  # the end of the volume tells all that wait
            raise
        group.voter.applied_to(record.index)
        if not pending.future.done():
            pending.future.set_result(outcome)

    def _apply(self, record: Record, command: Command, segment: int, offset: int, *, fresh: bool) -> Outcome:
        """``fresh``: not in replay, so that the body's data id has no place yet."""
        gid = record.gid
        hit("apply")
        index, has_body = record.index, len(record.body) > 0
        repeat = has_body and self.machine.is_repeat(gid, command)
        outcome = self.machine.apply(gid, index, command)
        if outcome.reason:
            self._refused += 1
        elif has_body and not repeat:
            self.volume.put_loc(record.data_id, segment, offset, record.stored_bytes, fresh=fresh)
        state = self._states.get(gid) or self._state(gid)
        state.applied, state.applied_term, state.term = index, record.term, record.term
        self._touched.add(gid)
        self._applied += 1
        return outcome

    def _begin_checkpoint(self) -> Checkpoint:
        self.machine.put_dirty()
        position = self.volume.checkpoint_begins()
        groups = {}
        for gid in self._touched:
            state = self._states[gid]
            state.time_ms = self.machine.times.get(gid, 0)
            groups[gid] = msgspec.structs.replace(state)
        self._touched.clear()
        return Checkpoint(position, groups)

    def _volume_failed(self, error: DiskError) -> None:
        if self.failure is not None:
            return
        self.failure = error
        _logger.error("volume %s failed: %s", self.volume.path, error)
        pending, self._pending = self._pending, {}
        _tell(pending.values(), error)
        self.on_failed(error)

    def _volume_starved(self, full: VolumeFull) -> None:
        _tell(self._pending.values(), full)

    def applied(self, gid: int) -> int:
        """Applied index of a group."""
        state = self._states.get(gid)
        return 0 if state is None else state.applied

    def applied_all(self) -> dict[int, int]:
        """Applied index of every group that has one."""
        return {gid: state.applied for gid, state in self._states.items() if state.applied}

    def statistics(self) -> GroupStatistics:
        """Counters."""
        return GroupStatistics(
            len(self._states), self._proposed, self._applied, self._refused, self._replayed, self._uncommitted_bytes,
            sum(1 for state in self._states.values() if state.damaged),
        )
