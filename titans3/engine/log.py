"""The log of a volume: entries of all its groups, one flush in flight. Hot: every write.

Invariants
* A record is delivered to ``on_flushed`` only after the ``fdatasync`` that covers it returned (I1); delivery is in the order of ``append``.
* One flush is in flight; what arrives meanwhile goes out with the next one, at most 1,000 records or 8 MiB.
* After a flush of two records or more the next one waits for what the loop is about to bring, until QUIET_TURNS of its turns in a row
  brought nothing, TURNS_MAX turns are over or COMPANY_SECONDS, or there are COMPANY_MAX records or COMPANY_BYTES_MAX. A record that
  comes after one that was alone does not wait.
* After a failed write or sync nothing is acknowledged any more in this process (I13): the kernel may have dropped the pages.
* Batch numbers rise by one; a segment starts with a record that names its predecessor, where it ended and its last batch.

* What may wait for the disk longer than a copy into the page cache takes is done by the flush thread: a new segment, a large batch,
  every batch for a while after a write took long, and all where the kernel does not sync by itself.

Threads: ``append``, ``_wait``, ``_submit`` and ``_deliver`` on the loop, and mostly the write, whose sync the kernel carries out
(``Syncs``). Else ``_run`` on the flush thread: batches cross by a queue, results by one ``call_soon_threadsafe`` each. With one flush
in flight the writer's state belongs to whoever has it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from titans3.clock import Clock
from titans3.engine.batch import Digest, batch_bytes, encode_batch
from titans3.engine.files import Files, write_all
from titans3.engine.kernel_sync import Syncs
from titans3.engine.prepare import OpenSegment, Preparer
from titans3.engine.record import Record, padded, segment_start
from titans3.engine.segment import CONTENT
from titans3.errors import DiskError
from titans3.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BLOCK_BYTES, MIB
from titans3.observe.failpoint import hit
from titans3.observe.histogram import RECORDS, Counts, Histogram

QUIET_TURNS, TURNS_MAX, COMPANY_MAX = 2, 8, 64
COMPANY_SECONDS = 0.01
_HERE_BYTES_MAX = 1 * MIB
COMPANY_BYTES_MAX = _HERE_BYTES_MAX // 2
SLOW_SECONDS = 0.025  # a write of the loop's that took longer was made to wait (a busy machine delays it, too, but not so long)
THREADED_SECONDS = 5.0
_logger = logging.getLogger("titans3.engine")
_FRAMING_BYTES = BATCH_RECORDS_MAX * 32 + 4 * BLOCK_BYTES  # digest, padding, segment start and footer of a full batch


class Flushed(msgspec.Struct, gc=False):
    """A durable record and where it lies: byte ``offset`` of ``segment``."""

    record: Record
    segment: int
    offset: int


class Tail(msgspec.Struct, frozen=True):
    """Where a log ends: the predecessor of the next batch. All zero for a log without a batch."""

    segment: int = 0
    offset: int = 0
    batch: int = 0
    digest: Digest = {}


class LogStatistics(msgspec.Struct, frozen=True):
    """Counters since the volume was opened."""

    records: int
    batches: int
    bytes: int
    segments: int
    pending: int
    flush_seconds: Counts
    flush_records: Counts


class _Done(msgspec.Struct):
    """What a flush hands back to the loop."""

    flushed: list[Flushed]
    segment: int
    end: int
    batch: int
    length: int
    seconds: float  # when it began, until it is synced
    switched: OpenSegment | None


class Log:
    """Append and flush. ``on_segment`` tells (on the loop, before the batch is delivered) that a new segment is in use."""

    def __init__(
        self,
        files: Files,
        preparer: Preparer,
        tail: Tail,
        *,
        epoch: int,
        segment_bytes: int,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        syncs: Syncs | None,
        on_flushed: Callable[[list[Flushed]], None],
        on_failed: Callable[[DiskError], None],
        on_segment: Callable[[OpenSegment], None],
    ) -> None:
        self._files = files
        self._preparer = preparer
        self._epoch = epoch
        self._batch_bytes_max = min(BATCH_BYTES_MAX, (segment_bytes - CONTENT - _FRAMING_BYTES) // 2)
        self._record_bytes_max = min(BATCH_BYTES_MAX, segment_bytes - CONTENT - _FRAMING_BYTES)
        self._loop = loop
        self._monotonic = clock.monotonic
        self._syncs = syncs
        self._threaded_until = 0.0
        self._written: _Done | None = None  # what the kernel syncs
        self._on_flushed = on_flushed
        self._on_failed = on_failed
        self._on_segment = on_segment
        self._pending: deque[Record] = deque()
        self._pending_bytes = 0
        self._flying = False
        self._scheduled = False
        self._last_count = 0  # records of the last flush
        self._seen = self._turns = self._quiet = 0  # while it waits for company
        self._wait_ends = 0.0
        self._idle: asyncio.Future[None] | None = None
        self.failure: DiskError | None = None
        # Position of the last delivered batch (loop).
        self.segment, self.offset, self.batch = tail.segment, tail.offset, tail.batch
        # Writer's state (of the flush in flight).
        self._current: OpenSegment | None = None
        self._tail = tail
        self._write_offset = tail.offset
        self._write_batch = tail.batch
        self._digest: Digest = dict(tail.digest)
        self._records = self._batches = self._bytes = self._segments = 0
        self._flush_seconds, self._flush_records = Histogram(), Histogram(RECORDS)
        self._queue: queue.SimpleQueue[list[Record] | _Done | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log flush", daemon=True)
        self._thread.start()

    # loop thread ---------------------------------------------------------------------------------------------------

    def append(self, record: Record) -> None:
        """Put a record into the next flush. Raises DiskError once the log has failed."""
        if self.failure is not None:
            raise self.failure
        size = 88 + len(record.command) + len(record.body)
        assert size < self._record_bytes_max
        self._pending.append(record)
        self._pending_bytes += size
        if not self._flying and not self._scheduled:
            self._scheduled = True
            if self._last_count < 2:
                self._loop.call_soon(self._submit)
            else:
                self._begin_wait()

    def _begin_wait(self) -> None:
        self._seen = self._turns = self._quiet = 0
        self._wait_ends = self._monotonic() + COMPANY_SECONDS
        self._loop.call_soon(self._wait)

    def _wait(self) -> None:
        """A turn of the loop: flush when no more is to come. To wait costs turns that find nothing, each flush the kernel's threads."""
        count = len(self._pending)
        if count > self._seen:
            self._seen, self._quiet = count, 0
        else:
            self._quiet += 1
        self._turns += 1
        if self._quiet < QUIET_TURNS and self._turns < TURNS_MAX and not self._is_company and self._monotonic() < self._wait_ends:
            self._loop.call_soon(self._wait)
        else:
            self._submit()

    @property
    def _is_company(self) -> bool:
        return len(self._pending) >= COMPANY_MAX or self._pending_bytes >= COMPANY_BYTES_MAX

    def _submit(self) -> None:
        self._scheduled = False
        pending = self._pending
        if self._flying or not pending or self.failure is not None:
            return
        if len(pending) <= BATCH_RECORDS_MAX and self._pending_bytes <= self._batch_bytes_max:
            records = list(pending)
            pending.clear()
            self._pending_bytes = 0
        else:
            records, taken = [], 0
            while pending and len(records) < BATCH_RECORDS_MAX:
                record = pending[0]
                size = 88 + len(record.command) + len(record.body)
                if records and taken + size > self._batch_bytes_max:
                    break
                taken += size
                records.append(pending.popleft())
            self._pending_bytes -= taken
        self._flying = True
        if self._syncs is None or not self._begin_here(records, self._syncs):
            self._queue.put(records)

    def _begin_here(self, records: list[Record], syncs: Syncs) -> bool:
        """Write, and let the kernel sync; False, and nothing is done, for what belongs on the flush thread."""
        current, begin = self._current, self._monotonic()
        if current is None or begin < self._threaded_until:
            return False
        size = self._size_of(records)
        if size > _HERE_BYTES_MAX or self._write_offset + size > current.header.capacity:
            return False
        try:
            done = self._written = self._write(records, current, None)
            hit("flush")
        except (OSError, DiskError) as error:
            self._loop.call_soon(self.fail, _failure_of(error))
            return True
        try:
            syncs.begin(current.fd, "log.flush", self._synced)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                _logger.info("a thread syncs the log, the kernel does not by itself: %s", error)
                self._syncs = None
            self._queue.put(done)
            return True
        if self._monotonic() - begin > SLOW_SECONDS:
            self._threaded_until = begin + THREADED_SECONDS
        return True

    def _synced(self, error: OSError | None) -> None:
        done = self._written
        assert done is not None
        self._written = None
        if error is not None:
            self.fail(_failure_of(error))
            return
        done.seconds = self._monotonic() - done.seconds
        self._deliver(done)

    def _deliver(self, done: _Done) -> None:
        if self.failure is not None:
            return
        self._flying = False
        count = self._last_count = len(done.flushed)
        self._records += count
        self._batches += 1
        self._bytes += done.length
        self._flush_seconds.add(done.seconds)
        self._flush_records.add(count)
        if done.switched is not None:
            self._segments += 1
            self._on_segment(done.switched)
        if self._pending:
            if count < 2 or self._is_company:
                self._submit()
            else:
                self._scheduled = True
                self._begin_wait()
        self._on_flushed(done.flushed)
        # After apply: a checkpoint taken inside on_flushed names the batch before, which replays to no effect.
        self.segment, self.offset, self.batch = done.segment, done.end, done.batch
        if self._idle is not None and not self._flying and not self._idle.done():
            self._idle.set_result(None)

    def fail(self, error: DiskError) -> None:
        """No acknowledgement from here on."""
        if self.failure is not None:
            return
        self.failure = error
        self._pending.clear()
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        self._on_failed(error)

    async def drain(self) -> None:
        """Wait until nothing is pending or in flight."""
        while (self._flying or self._pending) and self.failure is None:
            if self._idle is None or self._idle.done():
                self._idle = self._loop.create_future()
            await self._idle

    def stop(self) -> None:
        """End the flush thread; call ``drain`` first. May wait for a flush in flight."""
        self._queue.put(None)
        self._thread.join()
        if self._current is not None:
            self._files.close(self._current.fd)
            self._current = None

    def statistics(self) -> LogStatistics:
        """Counters."""
        return LogStatistics(
            self._records, self._batches, self._bytes, self._segments, len(self._pending),
            self._flush_seconds.read(), self._flush_records.read(),
        )  # fmt: skip

    # flush thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                done = item if isinstance(item, _Done) else self._write_there(item)
                assert self._current is not None
                self._files.sync(self._current.fd, "log.flush")
            except (OSError, DiskError) as error:
                self._call(self.fail, _failure_of(error))
                return
            done.seconds = self._monotonic() - done.seconds
            if not self._call(self._deliver, done):
                return

    def _call(self, function: Callable[..., None], argument: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop is closed: nobody is there to hear of it
            return False
        return True

    def _write_there(self, records: list[Record]) -> _Done:
        switched = None
        current = self._current
        if current is None or self._write_offset + self._size_of(records) > current.header.capacity:
            switched = current = self._switch()
            records = [segment_start(self._tail.segment, self._tail.offset, self._tail.batch), *records]
        done = self._write(records, current, switched)
        hit("flush")
        return done

    # whoever has the flush -----------------------------------------------------------------------------------------

    def _size_of(self, records: list[Record]) -> int:
        return batch_bytes(sum([padded(80 + len(r.command) + len(r.body)) for r in records]), len(self._digest))

    def _write(self, records: list[Record], current: OpenSegment, switched: OpenSegment | None) -> _Done:
        """The batch is written, and the writer's state is that behind it: should its sync fail, nothing is written any more."""
        number = self._write_batch + 1
        offset = self._write_offset
        batch = encode_batch(
            records, salt=current.header.salt, offset=offset, epoch=self._epoch, number=number,
            previous_segment=self._tail.segment, digest=self._digest,
        )  # fmt: skip
        end = offset + batch.length
        assert end <= current.header.capacity, "a batch must fit a fresh segment"
        begin = self._monotonic()
        hit("write")
        write_all(self._files, current.fd, batch.pieces, offset)
        self._write_offset, self._write_batch, self._digest = end, number, batch.digest
        self._tail = Tail(current.number, end, number)
        segment = current.number
        flushed = [Flushed(record, segment, at) for record, at in zip(records, batch.offsets, strict=True)]
        if switched is not None:
            del flushed[0]
        return _Done(flushed, segment, end, number, batch.length, begin, switched)

    def _switch(self) -> OpenSegment:
        hit("segment switch")
        following = self._preparer.take()
        if self._current is not None:
            self._files.close(self._current.fd)
        self._current = following
        self._write_offset = CONTENT
        return following


def _failure_of(error: OSError | DiskError) -> DiskError:
    return error if isinstance(error, DiskError) else DiskError(f"log write failed: {error}")
