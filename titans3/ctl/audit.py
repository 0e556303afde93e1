"""``titanctl audit``: the audit trail."""

from __future__ import annotations

import json
import time
from typing import IO, Any

import click

from titans3.clock import SystemClock
from titans3.ctl.quantity import DURATION
from titans3.ctl.session import Session, remote

_PAGE = 10_000


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
@click.argument("file", type=click.File("w"))
@click.option("--since", type=DURATION, default=86_400, metavar="DURATION", help="Of the last 15m, 12h, 7d.  [default: 1d]")
@remote
def export(session: Session, file: IO[str], since: int) -> None:
    """Write events into a file (- for standard output), a JSON object a line; at most the last 10,000."""
    query = {"limit": str(_PAGE), "since_ms": str(SystemClock().wall_ms() - since * 1000)}
    items = session.client.admin("GET", "/audit", query=query)["items"]
    for item in items:
        file.write(json.dumps(item, ensure_ascii=False) + "\n")
    if file.name != "-" and file.name != "<stdout>":
        session.done(f"{len(items)} events in {file.name}", events=len(items), file=file.name)
