"""``titanctl audit``: the audit trail."""

from __future__ import annotations

import heapq
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any

import click

from titans3.clock import SystemClock
from titans3.ctl.quantity import DURATION
from titans3.ctl.session import Session, remote
from titans3.errors import ConfigError

_PAGE = 10_000
_FOLLOW_SECONDS = 1.0


@click.group()
def audit() -> None:
    """Who administrated what, and whom the server refused."""


@audit.command()
@click.option("-n", "--last", "count", type=click.IntRange(1, _PAGE), default=50, show_default=True, help="So many events.")
@click.option("--since", type=DURATION, metavar="DURATION", help="Only of the last 15m, 12h, 7d.")
@remote
def ls(session: Session, count: int, since: int | None) -> None:
    """The last events, oldest first. With --json each has everything that is kept of it."""
    query = {"limit": str(count)}
    if since is not None:
        query["since_ms"] = str(SystemClock().wall_ms() - since * 1000)
    items = session.client.admin("GET", "/audit", query=query)["items"]
    rows = items if session.as_json else [item | {"time": _time(item), "who": item.get("who") or item.get("client")} for item in items]
    session.show_list(rows, ("time", "event", "who", "action", "status", "error", "target"))


def _time(item: dict[str, Any]) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item["time_ms"] / 1000))


@audit.command()
@remote
def verify(session: Session) -> int:
    """Check every line: nothing was changed, removed or put in between. Exit code 1 if something was."""
    found = session.client.admin("POST", "/audit/verify")
    if session.as_json:
        session.show(found)
    else:
        session.show_list([row | {"problem": row["problem"] or "none"} for row in found["chains"]], ("worker", "lines", "problem"))
    return 0 if found["whole"] else 1


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--since", type=DURATION, default=86_400, metavar="DURATION", help="Of the last 15m, 12h, 7d.  [default: 1d]")
@click.option("--follow", "-f", is_flag=True, help="Go on as events come, until Ctrl-C; behind what FILE has already.")
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="With --follow: stop after this.")
@remote
def export(session: Session, file: str, since: int, follow: bool, seconds: int | None) -> None:
    """Write all events into FILE (- for standard output), a JSON object a line.

    With --follow FILE is appended to: started again with the same FILE it goes on behind its last lines, whatever happened in between.
    """
    clock = SystemClock()
    query = {"since_ms": str(max(0, clock.wall_ms() - since * 1000))}
    known = _last_lines(file) if follow and file != "-" else {}
    with _opened(file, append=follow) as output:
        count, begin = 0, clock.monotonic()
        while True:
            chains = session.client.admin("GET", "/audit/chains", query=query)["items"]
            since_ms = int(query["since_ms"])
            for item in heapq.merge(*(_chain(session, chain, known, since_ms, file) for chain in chains), key=_order):
                output.write(json.dumps(item, ensure_ascii=False) + "\n")
                known[item["worker"]] = item["number"]
                count += 1
            for chain in chains:  # also of a chain without one since then
                known[chain["worker"]] = max(chain["lines"], known.get(chain["worker"], 0))
            output.flush()
            if not follow or (seconds is not None and clock.monotonic() - begin >= seconds):
                break
            time.sleep(_FOLLOW_SECONDS)
    if file != "-":
        session.done(f"{count} events in {file}", events=count, file=file)


def _chain(session: Session, chain: dict[str, Any], known: dict[int, int], since_ms: int, file: str) -> Iterator[dict[str, Any]]:
    """Events of a chain up to its end as it was told, those of before ``since_ms`` left out. Raises ConfigError."""
    worker, lines = chain["worker"], chain["lines"]
    at = known.get(worker)
    if at is not None and at > lines:
        raise ConfigError(f"{file} has line {at} of chain {worker}, the server only {lines}: it is of another trail; name another file")
    after = chain["after"] if at is None else at
    while after < lines:
        page = session.client.admin("GET", f"/audit/chains/{worker}", query={"after": str(after)})["items"]
        if not page:
            return
        for item in page:
            after = item["number"]
            if after <= lines and (at is not None or item["time_ms"] >= since_ms):
                yield item


def _order(item: dict[str, Any]) -> tuple[int, int, int]:
    return item["time_ms"], item["worker"], item["number"]


def _opened(file: str, *, append: bool) -> AbstractContextManager[IO[str]]:
    if file == "-":
        return nullcontext(sys.stdout)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    return open(os.open(file, flags, 0o600), "w", encoding="utf-8")


def _last_lines(file: str) -> dict[int, int]:
    """The last line of each chain that a file has; a line that was cut off at its end is cut away. Raises ConfigError, OSError."""
    known: dict[int, int] = {}
    whole = 0
    try:
        with open(file, "r+b") as opened:
            for line in opened:
                if line.endswith(b"\n"):
                    item = json.loads(line)
                    known[int(item["worker"])] = int(item["number"])
                    whole += len(line)
            opened.truncate(whole)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no exported audit trail; name another file") from error
    return known
