"""The parent of all workers: starts them, watches them, restarts them, moves their volumes to new code, ends them.

Invariants
* One thread, no event loop: one ``select`` over the channels and the signal pipe. Nothing here can wait for a disk.
* There is at most one process per worker number that owns volumes; a standby opens nothing before the old one is gone.
* A worker that dies is started again with back-off; one whose loop stands still for LIVENESS_SECONDS is killed first.
* Once it is stopping, nothing that a worker reports starts or opens anything any more.
* Every process that was started is reaped, and its channel closed, whatever became of it.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

from setproctitle import setproctitle

from titans3.config.schema import Config
from titans3.crypto.root_key import RootKey
from titans3.observe.board import BEAT, DOWN, STATE, Board, VolumeSlot
from titans3.observe.logs import set_up
from titans3.ring.ownership import SYSTEM_VOLUME, assign
from titans3.rpc import supervision as say
from titans3.rpc.marks import Marks
from titans3.supervisor.certificate import Certificate
from titans3.supervisor.folder import Credentials, DataFolder
from titans3.supervisor.gather import Gatherer
from titans3.supervisor.moves import Moves
from titans3.supervisor.notify import notify
from titans3.supervisor.process import Phase, WorkerProcess
from titans3.supervisor.rolling import CLOSE_SECONDS_MAX, Rolling
from titans3.supervisor.token_file import with_tokens

LIVENESS_SECONDS = 60.0
START_SECONDS_MAX = 60.0  # from fork to loaded code, on a machine that is busy with other things
BACKOFF_SECONDS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_SECONDS = 60.0
START_ATTEMPTS_MAX = 5
_TICK_SECONDS = 0.5
_LATE_SECONDS = 5.0  # when this process itself was stopped or starved, nobody's silence counts
_NO_ROOM_SECONDS = 5.0
_EXIT_SECONDS_MAX = 10.0  # from the end of a channel to the end of its process
_MAILBOX_BYTES = 1024 * 1024
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
_logger = logging.getLogger("titans3.supervisor")


class Supervisor:
    """Workers of one data folder. ``run`` returns the exit code."""

    def __init__(
        self,
        folder: DataFolder,
        config: Config,
        credentials: Credentials,
        root_key: RootKey,
        listeners: list[socket.socket],
        workers: int,
        certificate: Certificate,
        *,
        on_ready: Callable[[Config, Board], None],
        on_reload: Callable[[Config, Board], None],
        reload: Callable[[], Config],
        liveness_seconds: float = LIVENESS_SECONDS,
    ) -> None:
        """``on_ready`` is called once, when every worker serves; ``reload`` reads the configuration again or raises ConfigError;
        ``on_reload`` is called after it."""
        self.folder, self.config, self.credentials, self.listeners = folder, config, credentials, listeners
        self.root_key = root_key
        self.count = workers
        self.owners = tuple(assign(len(folder.cluster.volumes), workers))
        self.board = Board.make(workers, len(folder.cluster.volumes))
        self.marks = Marks.make(len(folder.cluster.volumes))
        self.processes: dict[int, WorkerProcess] = {}
        self.exit_code = 0
        self._on_ready, self._on_reload, self._reload, self._liveness = on_ready, on_reload, reload, liveness_seconds
        self._certificate, self._told = certificate, with_tokens(certificate.take(config))  # what workers are told of the configuration
        self._mailboxes = [_mailbox() for _ in range(workers)]
        self._selector = selectors.DefaultSelector()
        self._restart_at: dict[int, float] = {}
        self._deaths: dict[int, int] = dict.fromkeys(range(workers), 0)
        self._signals: deque[int] = deque()
        self._ready = False
        self._stopping = False
        self._wants_stop = False
        self._rolling: Rolling | None = None
        self._moving: tuple[int, ...] = ()
        self._leaving: list[WorkerProcess] = []  # standbys that are not wanted any more
        self._looked_at = time.monotonic()
        self._gatherer = Gatherer(self.board)
        self.moves = Moves(self)

    # the loop ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until stopped. The exit code: 0 after a clean stop."""
        setproctitle(f"titans3: supervisor {self.folder.path}")
        wakeup, _writer = self._catch_signals()
        self._selector.register(wakeup, selectors.EVENT_READ)
        try:
            for worker in range(self.count):
                self.processes[worker] = self.start(worker)
            while not self._finished():
                for key, _ in self._selector.select(self._timeout()):
                    if key.fileobj is wakeup:
                        self._signals.extend(wakeup.recv(4096))
                    else:
                        self._read(key.data)
                self._handle_signals()
                self._look_after()
        finally:
            for process in self._everybody():
                process.kill()
        return self.exit_code

    def _timeout(self) -> float:
        now = time.monotonic()
        return max(0.0, min([_TICK_SECONDS, self._gatherer.wait_seconds, *(when - now for when in self._restart_at.values())]))

    def _catch_signals(self) -> tuple[socket.socket, socket.socket]:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: None)
        return reader, writer

    def _finished(self) -> bool:
        return self._stopping and all(process.phase == Phase.GONE for process in self._everybody())

    def _everybody(self) -> list[WorkerProcess]:
        """Every process that may be there."""
        found = [*self.processes.values(), *self._leaving]
        standby = None if self._rolling is None else self._rolling.standby
        return found if standby is None or standby in found else [*found, standby]

    def _tell(self, message: say.ToWorker) -> None:
        for process in self._everybody():
            if process.phase != Phase.GONE and process not in self._leaving:
                process.tell(message)

    # starting ------------------------------------------------------------------------------------------------------

    def start(self, worker: int, *, standby: bool = False) -> WorkerProcess:
        """A new process for a worker number. Raises OSError."""
        listeners = tuple(sock.fileno() for sock in self.listeners)
        outboxes = tuple(outbox.fileno() for _, outbox in self._mailboxes)
        inbox = self._mailboxes[worker][0].fileno()
        cluster = self.folder.cluster
        start = say.Start(
            worker, self.count, self._told, cluster.cluster, self.folder.volumes, cluster.group_volume, self.owners,
            self.credentials.access_key, self.credentials.secret_key, self.root_key.raw, listeners,
            self.folder.run_fd, self.board.fd, inbox,
            outboxes, standby, self.marks.fd,
        )
        inherited = (*listeners, *outboxes, inbox, self.folder.run_fd, self.board.fd, self.marks.fd)
        process = WorkerProcess(start, inherited, time.monotonic())
        self._selector.register(process.channel, selectors.EVENT_READ, process)
        if self._moving:
            process.tell(say.Moving(self._moving))
        return process

    def _read(self, process: WorkerProcess) -> None:
        was_silent = process.is_silent
        for report in process.reports():
            self._take(process, report)
        if process.is_silent and not was_silent:
            self._selector.unregister(process.channel)
            process.end_by(time.monotonic() + _EXIT_SECONDS_MAX)

    def _take(self, process: WorkerProcess, report: say.ToSupervisor) -> None:
        if isinstance(report, say.Failed):
            process.failure, process.refused = report.message, report.refused
            _logger.error("worker %d: %s", process.worker, report.message)
            return
        if process.phase == Phase.GONE or (self._stopping and isinstance(report, (say.Loaded, say.Opened, say.Serving))):
            return  # it ended right after it said so, or was on its way up when the stop came
        process.beat_at = time.monotonic()
        match report:
            case say.Wanted(order=order):
                self._order(order)
            case say.Loaded(level=level, moves=moves):
                process.phase, process.level, process.moves = Phase.LOADED, level, moves
                if not process.standby:
                    self.open_volumes(process)
            case say.Opened(seconds=seconds):
                process.phase = Phase.OPENED
                _logger.debug("worker %d opened its volumes in %.2f s", process.worker, seconds)
                self._opened()
            case say.Serving():
                if process.phase == Phase.OPENED:  # else a rolling restart came between
                    process.phase = Phase.SERVING
                self._check_ready()
            case say.Checkpointed():
                process.checkpointed = True
            case say.Released():
                self.moves.released(process, report)
            case say.Adopted():
                self.moves.adopted(process, report)
            case say.Drained(cut=cut):
                if process.phase == Phase.DRAINING:
                    process.phase = Phase.DRAINED
                if cut:
                    _logger.warning("worker %d cut %d requests that did not finish in time", process.worker, cut)

    def open_volumes(self, process: WorkerProcess) -> None:
        """Let a process open what its number owns."""
        process.phase = Phase.OPENING
        process.tell(say.OpenVolumes())

    def _opened(self) -> None:
        """At the first start nobody serves before all volumes are open."""
        if not self._ready and not all(process.phase in (Phase.OPENED, Phase.SERVING) for process in self.processes.values()):
            return
        for process in self.processes.values():
            if process.phase == Phase.OPENED and not process.is_admitted:
                self.serve(process)

    def serve(self, process: WorkerProcess) -> None:
        """Let a process accept connections."""
        process.is_admitted = True
        first = not self._ready and process.worker == self.owners[SYSTEM_VOLUME]
        process.tell(say.Serve(tuple(self.config.s3.buckets) if first else ()))

    def _check_ready(self) -> None:
        if not self._ready and all(process.phase == Phase.SERVING for process in self.processes.values()):
            self._ready = True
            self._on_ready(self.config, self.board)
            notify(f"READY=1\nMAINPID={os.getpid()}")

    # watching ------------------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        now = time.monotonic()
        if now - self._looked_at > _LATE_SECONDS:
            for process in self._everybody():
                process.beat_at = now
        self._looked_at = now
        for process in self._everybody():
            if process.phase == Phase.GONE:
                continue
            code = process.reap()
            if code is not None:
                self._gone(process, code, now)
            elif process.is_killed:
                continue
            elif process.deadline and now > process.deadline:
                _logger.error("worker %d does not come to an end: killed", process.worker)
                process.kill()
            else:
                self._check_beat(process, now)
        if not self._stopping:
            self._restart(now)
        elif all(process.phase in (Phase.DRAINED, Phase.GONE, Phase.CLOSING) for process in self.processes.values()):
            self._close_all(now)
        self._gather()
        self.moves.watch()
        if self._wants_stop:
            self.stop()
        elif self._ready and not self._stopping and (self._rolling is None or self._rolling.standby is None):
            self.moves.step()
        if self._rolling is not None:
            self._rolling.step()

    def _gather(self) -> None:
        """How many workers are active. With TLS all, unless the operator says otherwise: its connections cannot move back. And all while
        one has code that does not know of it (of an older version, by a rolling restart): nothing moves then."""
        loaded = [process for process in self.processes.values() if process.phase not in (Phase.STARTING, Phase.GONE)]
        if self._rolling is not None or not all(process.moves for process in loaded):
            decides, active = False, self.count
        elif self.config.node.active_workers or self.config.s3.tls_cert or self.count == 1:
            decides, active = False, min(self.config.node.active_workers or self.count, self.count)
        else:
            decides, active = True, self.board.active
        self.board.active = active
        pids = [os.getpid(), *(process.pid for process in self._everybody() if process.phase != Phase.GONE)]
        self._gatherer.look(pids, decides=decides)

    def _check_beat(self, process: WorkerProcess, now: float) -> None:
        if process.phase == Phase.STARTING:
            silent = now - process.started > START_SECONDS_MAX
        elif process.standby:  # loaded, it waits however long that takes; the board's slot is still the old one's
            silent = False
        else:
            beat = self.board.get(process.worker, BEAT)
            if beat != process.last_beat:
                process.last_beat, process.beat_at = beat, now
            silent = now - process.beat_at > self._liveness
        if silent:
            _logger.error("worker %d (process %d) stands still: killed", process.worker, process.pid)
            process.kill()

    def _gone(self, process: WorkerProcess, code: int, now: float) -> None:
        self._read(process)  # its last words
        if not process.is_silent:
            self._selector.unregister(process.channel)
        process.close()
        if process in self._leaving:
            self._leaving.remove(process)
        if process is not self.processes.get(process.worker):
            return  # a standby; the rolling restart notices
        if not self._stopping:
            self.moves.gone(process)
        self.board.clear(process.worker)
        self.board.put(process.worker, STATE, DOWN)
        for volume, owner in enumerate(self.owners):
            if owner == process.worker:
                self.board.put_volume(volume, VolumeSlot("closed", 0, 0, 0, 0, 0))
                self.marks.of(volume).withdraw()
        if code:
            _logger.error("worker %d ended with %s", process.worker, _exit_word(code))
        if self._stopping:
            self.exit_code = self.exit_code or int(code != 0)
        elif self._rolling is None or not self._rolling.takes_over(process):
            self._count_death(process, now)

    def _count_death(self, process: WorkerProcess, now: float) -> None:
        worker = process.worker
        if now - process.started > STABLE_SECONDS:
            self._deaths[worker] = 0
        delay = BACKOFF_SECONDS[min(self._deaths[worker], len(BACKOFF_SECONDS) - 1)]
        self._deaths[worker] += 1
        if not self._ready and (process.refused or self._deaths[worker] >= START_ATTEMPTS_MAX):
            self.exit_code = 1
            self.stop(give_up=True)
            return
        delay = max(delay, BACKOFF_SECONDS[-1]) if process.refused else delay
        _logger.error("worker %d is started again in %.1f s; its keys answer 503 until it is back", worker, delay)
        self._restart_at[worker] = now + delay

    def restart(self, worker: int) -> None:
        """A new process for a worker whose last one is gone."""
        self._restart_at[worker] = time.monotonic()

    def _restart(self, now: float) -> None:
        for worker, when in list(self._restart_at.items()):
            if now >= when:
                try:
                    self.processes[worker] = self.start(worker)
                except OSError as error:
                    _logger.error("worker %d cannot be started, again in %.0f s: %s", worker, _NO_ROOM_SECONDS, error)
                    self._restart_at[worker] = now + _NO_ROOM_SECONDS
                else:
                    del self._restart_at[worker]

    # signals -------------------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            if number in (signal.SIGTERM, signal.SIGINT):
                self.stop(give_up=self._stopping or self._wants_stop)
            elif number == signal.SIGHUP and not self._stopping:
                self.reload()
            elif number == signal.SIGUSR2 and not self._stopping:
                self.roll()

    def _order(self, order: str) -> None:
        """What an administrator asked a worker for."""
        if self._stopping:
            return
        _logger.info("an administrator asks for %s", order)
        if order == "restart":
            self.roll()
        elif order == "stop":
            self.stop()

    def stop(self, *, give_up: bool = False) -> None:
        """Drain and end; ``give_up``: without waiting for requests."""
        self._wants_stop = not give_up and self.moves.is_moving
        if self._wants_stop:  # in a moment: requests wait for that volume
            return
        seconds = 0.0 if give_up else self.config.node.drain_seconds
        if not self._stopping:
            notify("STOPPING=1")
            _logger.info("stopping: requests in flight have %.0f s", seconds)
            for listener in self.listeners:
                listener.close()
        self._stopping = True
        self._restart_at.clear()
        self._stop_rolling()
        deadline = time.monotonic() + seconds + CLOSE_SECONDS_MAX
        for process in self.processes.values():
            if process.phase not in (Phase.GONE, Phase.CLOSING):
                process.tell(say.Drain(seconds))
                process.phase = Phase.DRAINING
                process.end_by(deadline)

    def _stop_rolling(self) -> None:
        if self._rolling is None:
            return
        standby, self._rolling = self._rolling.standby, None
        if standby is not None and standby.phase != Phase.GONE and standby not in self.processes.values():
            standby.kill()
            self._leaving.append(standby)
        self.tell_moving(())

    def _close_all(self, now: float) -> None:
        """Every worker drained: nobody asks a sibling any more."""
        for process in self.processes.values():
            if process.phase == Phase.DRAINED:
                process.phase = Phase.CLOSING
                process.deadline = now + CLOSE_SECONDS_MAX
                process.tell(say.Close())

    def reload(self) -> None:
        """Read the configuration again; what can change while running does."""
        notify("RELOADING=1")
        try:
            config = self._reload()
            told = self._certificate.take(with_tokens(config))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with new configuration, the old one goes on
            _logger.error("configuration not reloaded, the old one stays: %s", error)
        else:
            self.config, self._told = config, told
            set_up("supervisor", config.log.level, config.log.format)
            _logger.info("configuration reloaded")
            self._tell(say.Reload(told))
            if self._ready:
                self._on_reload(config, self.board)
        notify("READY=1")

    def roll(self) -> None:
        """Replace every worker by new code, one after the other, without a failed request."""
        if self._rolling is not None or not self._ready:
            _logger.warning("a rolling restart is already under way" if self._rolling else "not ready yet: no rolling restart")
            return
        _logger.info("rolling restart of %d workers", self.count)
        self._rolling = Rolling(self, self.count)
        self._rolling.step()

    def rolled(self, *, failed: str = "") -> None:
        """The rolling restart is over."""
        self._stop_rolling()
        if failed:
            _logger.error("rolling restart ended early: %s", failed)
        else:
            _logger.info("rolling restart done")

    @property
    def is_rolling(self) -> bool:
        """Whether a rolling restart is under way."""
        return self._rolling is not None

    def own(self, volume: int, worker: int) -> None:
        """A volume has another owner from now on."""
        self.owners = (*self.owners[:volume], worker, *self.owners[volume + 1 :])
        self._tell(say.Owners(self.owners))

    def tell_moving(self, workers: tuple[int, ...]) -> None:
        """Tell everybody whose volumes are between two processes."""
        self._moving = workers
        self._tell(say.Moving(workers))

    def replace(self, old: WorkerProcess, new: WorkerProcess) -> None:
        """The standby becomes the worker."""
        assert old.phase == Phase.GONE
        new.standby = False
        new.beat_at = time.monotonic()
        self.processes[new.worker] = new


def _mailbox() -> tuple[socket.socket, socket.socket]:
    """Receiving and sending end for connections handed to a worker; what is in it outlives the worker.

    Not datagrams: those queue no deeper than net.unix.max_dgram_qlen, which is 10 on many machines.
    """
    inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    outbox.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAILBOX_BYTES)
    return inbox, outbox


def _exit_word(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

