"""How many workers are active, from what others leave of the processors."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from titans3.observe.board import REQUESTS, Board
from titans3.observe.process import ProcessorSeconds, read_cpu_seconds, read_processors
from titans3.supervisor import gather
from titans3.supervisor.gather import Gatherer, Gathering, Usage
from titans3.supervisor.moves import HELD_SECONDS_MAX, STAY_SECONDS, STAY_SECONDS_MAX, Slow

SHORT, LONG = 0.0002, 0.004  # CPU seconds for a request
SPIN = "while True: pass"


def looks(gathering: Gathering, usage: Usage, count: int = 10) -> list[int]:
    return [gathering.look(usage) for _ in range(count)]


@pytest.mark.parametrize(
    ("workers", "processors", "usage", "active"),
    [
        (2, 2, Usage(1.1, 0.95, SHORT), 1),  # a client on the same machine takes the other processor
        (2, 2, Usage(2.0, 1.9, SHORT), 2),  # both are its own, and in use
        (2, 2, Usage(1.6, 1.5, SHORT), 2),  # the client needs less than half of one
        (2, 2, Usage(1.1, 0.95, LONG), 2),  # long requests
        (2, 2, Usage(0.5, 0.1, SHORT), 2),  # nothing to do: nothing moves
        (4, 4, Usage(1.2, 1.1, SHORT), 4),  # the same: four workers are hardly asked
        (4, 4, Usage(2.1, 2.0, SHORT), 2),
        (4, 4, Usage(1.1, 1.7, SHORT), 1),
        (4, 2, Usage(1.0, 0.9, SHORT), 2),  # a worker for half a processor
        (4, 2, Usage(2.0, 1.9, SHORT), 4),
        (2, 8, Usage(8.0, 1.9, SHORT), 2),  # more processors than workers
        (2, 8, Usage(1.1, 1.0, SHORT), 1),
        (1, 2, Usage(1.0, 0.9, SHORT), 1),
    ],
)
def test_one_worker_for_each_processor_that_is_left(workers: int, processors: int, usage: Usage, active: int) -> None:
    gathering = Gathering(workers, processors)
    found = looks(gathering, usage, 40)
    assert found[-1] == active
    assert found[0] == workers, "one look changes nothing"
    assert all(before - after in (0, 1) for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("usage", [Usage(1.8, 0.9, SHORT), Usage(1.1, 0.9, LONG)])
def test_they_come_back_when_there_is_room_or_requests_are_long(usage: Usage) -> None:
    gathering = Gathering(2, 2)
    assert looks(gathering, Usage(1.1, 0.95, SHORT))[-1] == 1
    assert looks(gathering, Usage(1.2, 0.2, LONG))[-1] == 1, "not for a server that is hardly asked"
    assert looks(gathering, usage)[-1] == 2


def test_between_the_bounds_nothing_changes() -> None:
    for left in (1.26, 1.3, 1.4, 1.49):
        for before in (1, 2):
            gathering = Gathering(2, 2)
            gathering.active = before
            assert set(looks(gathering, Usage(left, 0.9, SHORT))) == {before}


def test_looks_that_do_not_agree_change_nothing() -> None:
    gathering = Gathering(2, 2)
    for _ in range(20):
        assert gathering.look(Usage(1.0, 0.9, SHORT)) == 2
        assert gathering.look(Usage(1.9, 0.9, SHORT)) == 2


def test_what_a_change_itself_costs_changes_nothing() -> None:
    """While volumes move, requests wait and the client with them."""
    gathering = Gathering(2, 2)
    assert looks(gathering, Usage(1.1, 0.95, SHORT), 2)[-1] == 1
    assert looks(gathering, Usage(1.9, 0.9, LONG), 4)[-1] == 1
    assert looks(gathering, Usage(1.1, 0.85, SHORT), 20)[-1] == 1


@pytest.fixture
def spinning() -> Iterator[subprocess.Popen[bytes]]:
    """A process that uses a processor."""
    process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def test_what_the_kernel_says(spinning: subprocess.Popen[bytes]) -> None:
    every = os.sched_getaffinity(0)
    time.sleep(0.2)
    before, own, begin = read_processors(every), read_cpu_seconds(spinning.pid), time.monotonic()
    time.sleep(1.0)
    after, passed = read_processors(every), time.monotonic() - begin
    used = read_cpu_seconds(spinning.pid) - own
    assert 0.1 < used <= passed + 0.1
    assert after.used - before.used >= used - 0.1
    assert abs((after.all - before.all) / len(every) - passed) < 0.3
    assert read_cpu_seconds(2**22 - 1) == 0.0


def test_own_use_is_not_taken_by_others(spinning: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same process, once as one of the server's and once as somebody else's."""
    monkeypatch.setattr(gather, "LOOK_SECONDS", 0.0)
    seen: list[Usage] = []
    monkeypatch.setattr(Gathering, "look", lambda self, usage: seen.append(usage) or 2)
    boards = [Board.make(2, 1), Board.make(2, 1)]
    as_own_of, as_other_of = (Gatherer(board) for board in boards)
    for turn in range(6):
        for board in boards:
            board.put(0, REQUESTS, 100 * turn)
        as_own_of.look([spinning.pid])
        as_other_of.look([os.getpid()])
        time.sleep(0.5)
    for board in boards:
        board.close()
    as_own, as_other = seen[-2:]
    assert as_own.own > 0.2
    assert as_other.own < 0.2
    assert as_own.left > as_other.left + 0.2
    assert as_own.seconds == pytest.approx(as_own.own * 2.0 / 400, rel=0.5)  # of four looks


def test_what_is_idle_is_on_the_board_whoever_decides(spinning: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at once when it gets less, and by and by when it gets more; how many workers take connections is not touched."""
    monkeypatch.setattr(gather, "LOOK_SECONDS", 0.0)
    board = Board.make(2, 1)
    gatherer = Gatherer(board)
    assert board.idle is None
    board.active = 1
    for _ in range(4):
        gatherer.look([os.getpid()], decides=False)
        time.sleep(0.3)
    assert board.active == 1
    assert board.idle is not None and 0.0 <= board.idle < 1.0
    told = []
    for idle in (0.5, 0.1, 0.5, 0.5):
        monkeypatch.setattr(Gatherer, "_usage", lambda self, first, old, new, idle=idle: Usage(2.0, 1.0, SHORT, idle))
        gatherer.look([os.getpid()], decides=False)
        told.append(board.idle)
    board.close()
    assert told[1:] == [0.1, 0.3, 0.4]


def test_what_a_container_may_not_use_is_not_idle(spinning: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(gather, "read_quota", lambda: 0.2)
    seen: list[Usage] = []
    monkeypatch.setattr(Gathering, "look", lambda self, usage: seen.append(usage) or 2)
    board = Board.make(2, 1)
    gatherer = Gatherer(board)
    for _ in range(4):
        gatherer.look([spinning.pid])
        time.sleep(0.5)
    assert board.idle == 0.0
    assert seen[-1].own > 0.2 and seen[-1].idle <= 0.0
    board.close()


def test_what_loops_alone_could_not_use_is_idle_though_threads_use_it() -> None:
    """Else a single worker on several processors would go to and fro between its threads and its loop."""
    found = []
    for workers in (1, 4):
        board = Board.make(workers, 1)
        gatherer = Gatherer(board)
        gatherer._processors, gatherer._quota = frozenset(range(4)), None
        old, new = (gather._Seen(at, ProcessorSeconds(4.0 * at, 4.0 * at), {1: 4.0 * at}, 0) for at in (1.0, 2.0))
        usage = gatherer._usage(old, old, new)  # all four processors in use, by this server
        assert usage is not None and usage.left == 4.0
        found.append(usage.idle)
        board.close()
    assert found == [0.75, 0.0]


def test_a_process_that_came_or_went_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process used cannot be compared with what another did."""
    monkeypatch.setattr(gather, "LOOK_SECONDS", 0.0)
    seen: list[Usage] = []
    monkeypatch.setattr(Gathering, "look", lambda self, usage: seen.append(usage) or 2)
    board = Board.make(2, 1)
    gatherer = Gatherer(board)
    me, parent = os.getpid(), os.getppid()
    for pids in ([me], [me], [me, parent], [me, parent], [me]):
        gatherer.look(pids)
        time.sleep(0.05)
    assert not seen
    for _ in range(2):
        gatherer.look([me])
        time.sleep(0.05)
    assert len(seen) == 1
    board.close()


def test_a_volume_whose_move_took_long_stays_longer_each_time() -> None:
    slow, now = Slow(), 1000.0
    assert slow.moved(3, HELD_SECONDS_MAX, now) == 0 and not slow.stays(3, now)
    stayed = []
    for _ in range(12):
        stayed.append(slow.moved(3, HELD_SECONDS_MAX + 0.1, now))
        assert slow.moved(3, 5.0, now + 1) == 0, "the way back is no second time"
        assert slow.stays(3, now + stayed[-1] - 1) and not slow.stays(2, now)
        now += stayed[-1]
        assert not slow.stays(3, now)
    assert stayed[:3] == [STAY_SECONDS, 2 * STAY_SECONDS, 4 * STAY_SECONDS] and stayed[-1] == STAY_SECONDS_MAX
    assert slow.moved(2, 1.0, now) == STAY_SECONDS
