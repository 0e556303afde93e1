"""``titanctl config``: cluster keys, their history, and start-up keys to look at."""

from __future__ import annotations

import json
from typing import Any

import click

from titans3.config.quantity import show_bytes, show_seconds
from titans3.ctl.client import segment
from titans3.ctl.session import Session, remote


@click.group()
def config() -> None:
    """Configuration of the running server. Start-up keys are shown; cluster keys are changed here."""


@config.command("get")
@click.argument("name", metavar="[KEY]", required=False)
@remote
def get_config(session: Session, name: str | None) -> None:
    """A key, or all of them."""
    if name:
        found = session.client.admin("GET", f"/config/{segment(name)}")
        session.show(found, _shown(found["value"], name=name))
        return
    items = session.client.admin("GET", "/config")["items"]
    rows = items if session.as_json else [
        item | {field: _shown(item[field], name=item["name"]) for field in ("value", "default")} for item in items
    ]  # fmt: skip
    session.show_list(rows, ("name", "value", "default", "scope"))


@config.command("set")
@click.argument("name", metavar="KEY")
@click.argument("value")
@remote
def set_config(session: Session, name: str, value: str) -> None:
    """Set a cluster key; it is in force on every worker when this returns."""
    found = session.client.admin("PUT", f"/config/{segment(name)}", {"value": _parsed(value)})
    session.done(f"{name} = {_shown(found['value'])}", **found)


@config.command("reset")
@click.argument("name", metavar="KEY")
@remote
def reset_config(session: Session, name: str) -> None:
    """Back to the default."""
    found = session.client.admin("DELETE", f"/config/{segment(name)}")
    session.done(f"{name} = {_shown(found['value'])}, the default", **found)


@config.command()
@remote
def history(session: Session) -> None:
    """Changes of cluster keys, newest first."""
    items = session.client.admin("GET", "/config/history")["items"]
    rows = items if session.as_json else [item | {"old": _shown(item["old"]), "new": _shown(item["new"])} for item in items]
    session.show_list(rows, ("number", "changed", "who", "name", "old", "new"))


@config.command()
@click.argument("number", type=int)
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def restore(session: Session, number: int, yes: bool) -> None:
    """Cluster keys as they were right after change NUMBER of the history; 0 is before the first that is kept."""
    session.confirm(f"Undo every change after {number}?", yes=yes)
    items = session.client.admin("POST", "/config/restore", {"number": number})["items"]
    session.show_list([item | {"value": _shown(item["value"])} for item in items], ("name", "value"))


def _parsed(text: str) -> Any:
    """A number, true or false, or the text itself."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() and text.isascii() else text


def _shown(value: Any, *, name: str = "") -> str:
    """For people; sizes and times of start-up keys as a file may say them."""
    if value is None:
        return "not set"
    if isinstance(value, (int, float)) and name.endswith("_bytes"):
        return show_bytes(int(value)) if value >= 0 else "auto"
    if isinstance(value, (int, float)) and name.endswith("_seconds"):
        return show_seconds(value)
    return value if isinstance(value, str) else json.dumps(value)
