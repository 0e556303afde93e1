"""``titanctl alias``: names for servers."""

from __future__ import annotations

import os
import sys
from typing import IO

import click
import msgspec

from titans3.ctl import aliases
from titans3.ctl.aliases import Alias
from titans3.ctl.client import Client
from titans3.ctl.session import Session
from titans3.errors import ConfigError


@click.group()
def alias() -> None:
    """Names for servers, so that --alias NAME says which one is meant."""


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@alias.command("set")
@click.argument("name")
@click.argument("url")
@click.argument("access_key", required=False)
@click.argument("secret_key", required=False)
@click.option("--region", default="us-east-1", show_default=True)
@click.option("--ca", default="", metavar="FILE", help="Authorities to believe, for a certificate of one's own.")
@click.option("--token", default="", metavar="TOKEN", help="Of a session, whose keys these are; it ends with the session.")
@click.option("--no-check", is_flag=True, help="Do not ask the server.")
@_json
def set_alias(
    name: str, url: str, access_key: str | None, secret_key: str | None, region: str, ca: str, token: str, no_check: bool,
    as_json: bool,
) -> None:
    """Name a server. Keys that are not given are asked for, or read from standard input line by line.

    Example: titanctl alias set prod https://s3.example.org AKIA... SECRET
    """
    access_key = access_key or _ask("Access key", hidden=False)
    secret_key = secret_key or _ask("Secret key", hidden=True)
    made = Alias(aliases.checked_url(url), access_key, secret_key, region, os.path.abspath(ca) if ca else "", token)
    if not no_check:
        client = Client(made)
        try:
            client.s3("GET")
        finally:
            client.close()
    kept = aliases.load()
    kept[aliases.checked_name(name)] = made
    aliases.save(kept)
    Session(as_json=as_json).done(f"alias {name}: {made.url}", alias=name, url=made.url)


@alias.command("ls")
@_json
def list_aliases(as_json: bool) -> None:
    """All aliases, without their secrets."""
    found = aliases.load()
    names = dict.fromkeys(found, "file")
    for variable in os.environ:
        if variable.startswith(aliases.VARIABLE):
            names[variable[len(aliases.VARIABLE) :]] = "environment"
    rows = []
    for name in sorted(names):
        item = aliases.of_variable(name) if names[name] == "environment" else found[name]
        assert item is not None
        rows.append(
            {"alias": name, "url": item.url, "access_key": item.access_key, "region": item.region, "from": names[name]}
        )
    Session(as_json=as_json).show_list(rows, ("alias", "url", "access_key", "region", "from"))


@alias.command("rm")
@click.argument("name")
@_json
def remove_alias(name: str, as_json: bool) -> None:
    """Forget a server."""
    kept = aliases.load()
    if name not in kept:
        raise ConfigError(f"there is no alias {name} in {aliases.path()}")
    del kept[name]
    aliases.save(kept)
    Session(as_json=as_json).done(f"alias {name} is gone", alias=name)


@alias.command("export")
@click.argument("name")
def export_alias(name: str) -> None:
    """Print an alias with its secret as JSON, for `titanctl alias import` elsewhere."""
    found = aliases.find(name)
    if found is None:
        raise ConfigError(f"there is no alias {name}")
    click.echo(msgspec.json.encode(found))


@alias.command("import")
@click.argument("name")
@click.argument("file", type=click.File("rb"), default="-")
@_json
def import_alias(name: str, file: IO[bytes], as_json: bool) -> None:
    """Take what `titanctl alias export` printed, from a file or standard input."""
    try:
        found = msgspec.json.decode(file.read(), type=Alias)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"this is no exported alias: {error}") from error
    kept = aliases.load()
    kept[aliases.checked_name(name)] = msgspec.structs.replace(found, url=aliases.checked_url(found.url))
    aliases.save(kept)
    Session(as_json=as_json).done(f"alias {name}: {found.url}", alias=name, url=found.url)


def _ask(what: str, *, hidden: bool) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=hidden, err=True))
    line = sys.stdin.readline().rstrip("\n")
    if not line:
        raise ConfigError(f"{what.lower()} is not given")
    return line
