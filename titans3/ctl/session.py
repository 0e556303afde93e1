"""What every command is given: the server that is meant, and how answers are shown.

Invariants
* Which server: ``--alias`` or TITANCTL_ALIAS; else AWS_ENDPOINT_URL with AWS's keys and session token; else the server of a data folder
  of this machine.
* With ``--json`` standard output is JSON and nothing else: one object, or for a list one object a line. Words for people go to standard
  error.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from titans3.ctl import aliases
from titans3.ctl.aliases import Alias
from titans3.ctl.client import Client
from titans3.errors import ConfigError


class Session:
    """One run of a command."""

    def __init__(self, alias: str = "", data: str = "", *, as_json: bool = False) -> None:
        self._alias, self._data, self.as_json = alias, data, as_json
        self._clients: dict[str, Client] = {}

    @property
    def client(self) -> Client:
        """Of the server that is meant. Raises ConfigError."""
        return self.client_of(self._alias)

    def client_of(self, name: str) -> Client:
        """Of an alias; empty for the server that is meant without one. Raises ConfigError."""
        name = name or self._alias
        if name not in self._clients:
            self._clients[name] = Client(self._resolve(name))
        return self._clients[name]

    @property
    def has_alias(self) -> bool:
        """Whether a server was named for the whole command."""
        return bool(self._alias)

    def _resolve(self, name: str) -> Alias:
        if name:
            found = aliases.find(name)
            if found is None:
                raise ConfigError(f"there is no alias {name}; make it: titanctl alias set {name} URL ACCESS_KEY SECRET_KEY")
            return found
        environ = os.environ
        url = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL", "")
        if url and not self._data and environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
            region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            return Alias(
                aliases.checked_url(url), environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], region,
                environ.get("AWS_CA_BUNDLE", ""), environ.get("AWS_SESSION_TOKEN", ""),
            )  # fmt: skip
        return _local(self._data)

    def close(self) -> None:
        """Let go of all connections."""
        for client in self._clients.values():
            client.close()

    # showing -------------------------------------------------------------------------------------------------------

    def show(self, item: dict[str, Any], text: str | None = None) -> None:
        """One object: ``text`` for people, or its fields."""
        if self.as_json:
            click.echo(json.dumps(item, ensure_ascii=False))
        elif text is not None:
            click.echo(text)
        else:
            width = max(map(len, item), default=0)
            for name, value in item.items():
                click.echo(f"{name.replace('_', ' '):{width}}  {cell(value)}")

    def show_list(self, items: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """A list: a table of ``columns`` for people."""
        if self.as_json:
            for item in items:
                click.echo(json.dumps(item, ensure_ascii=False))
            return
        self.show_table([tuple(cell(item.get(name)) for name in columns) for item in items], columns)

    def show_table(self, rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
        """Aligned columns under their names."""
        shown = [tuple(name.replace("_", " ").upper() for name in columns), *rows]
        widths = [max(len(row[at]) for row in shown) for at in range(len(columns))]
        for number, row in enumerate(shown):
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            click.echo(click.style(line, bold=True) if number == 0 and is_coloured() else line)

    def done(self, text: str, **item: Any) -> None:
        """Something was done: an object, or a sentence."""
        self.show(item, text)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Before what cannot be undone. Raises Abort, or UsageError where nobody can be asked."""
        if yes:
            return
        if not sys.stdin.isatty() or self.as_json:
            raise click.UsageError(f"{question} Say --yes where nobody can be asked")
        click.confirm(question, abort=True, err=True)


def remote(work: Callable[..., Any]) -> Callable[..., Any]:
    """A command that talks to a server: with ``--alias``, ``--data``, ``--json``, its first argument the Session."""

    @click.option(
        "--alias", "-a", metavar="NAME", envvar="TITANCTL_ALIAS", help="Which server: an alias (titanctl alias ls)."
    )
    @click.option(
        "--data", metavar="PATH", envvar="TITANS3_DATA", help="Which server: the one of a data folder of this machine."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON: one object, or one a line for a list.")
    @functools.wraps(work)
    def command(alias: str | None, data: str | None, as_json: bool, **options: Any) -> Any:
        session = Session(alias or "", data or "", as_json=as_json)
        try:
            return work(session, **options)
        finally:
            session.close()

    return command


def cell(value: Any) -> str:
    """A value in a table."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}={cell(item)}" for name, item in value.items()) or "-"
    text = str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def is_coloured() -> bool:
    """Whether a person looks at standard output and wants colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _local(data: str) -> Alias:
    from titans3.cli.endpoint import running
    from titans3.cli.trust import client_trust

    folder = data or os.environ.get("TITANS3_NODE__DATA") or "./titans3-data"
    server = running(folder)
    bundle = client_trust(server, os.environ.get("AWS_CA_BUNDLE", ""))[0] if server.is_tls else ""
    return Alias(server.url, server.access_key, server.secret_key, server.region, bundle)
