"""``python -m titans3.worker FD``: a worker on the channel that the supervisor gave it. Not for people."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import uvloop

from titans3.worker.shell import Shell

_FOR_THE_SUPERVISOR = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


async def _run(channel: socket.socket) -> int:
    return await Shell(channel).run()


def main() -> None:
    """Run one worker; exits with its code."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("titans3.worker is started by `titans3 run`")
    for number in _FOR_THE_SUPERVISOR:  # they come to a whole process group or unit; the supervisor, which blocked them here, decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_SUPERVISOR)
    channel = socket.socket(fileno=int(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_run(channel))
    sys.exit(code)


if __name__ == "__main__":
    main()
