"""``titanctl kms``: a copy of the root key in a safe place, and back.

Invariants
* The key is copied as it is kept: guarded by a passphrase, it stays so. The copy is a new file with mode 0600.
* What is restored fits the folder's cluster and names, or nothing is written.
"""

from __future__ import annotations

import os

import click
import msgspec

from titans3.ctl.session import Session
from titans3.errors import ConfigError

_FILE_BYTES_MAX = 64 * 1024
_data = click.option(
    "--data", metavar="PATH", envvar="TITANS3_DATA", default="./titans3-data", help="The server's data folder."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def kms() -> None:
    """The root key, under which every secret is sealed. Works on a data folder of this machine."""


@kms.command()
@click.argument("file")
@_data
@_json
def backup(file: str, data: str, as_json: bool) -> None:
    """Copy the root key into a new FILE. Without a copy, a lost key means that every access key has to be made anew."""
    from titans3.supervisor.folder import read_cluster
    from titans3.supervisor.root_key import read_any

    folder = os.path.abspath(data)
    kept = read_any(folder, read_cluster(folder))
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{file} is there already; give a new name") from None
    with os.fdopen(fd, "wb") as opened:
        opened.write(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
        opened.flush()
        os.fsync(opened.fileno())
    Session(as_json=as_json).done(
        f"root key {kept.id} of {folder} is in {file}", file=file, key=kept.id, guarded=kept.is_wrapped
    )
    if not kept.is_wrapped:
        click.echo(
            "No passphrase guards it: whoever has this file and the data folder can read every secret in it.", err=True
        )


@kms.command()
@click.argument("file")
@_data
@_json
def restore(file: str, data: str, as_json: bool) -> None:
    """Put the root key of FILE on every volume that has none. The server must be stopped."""
    from titans3.crypto.kept_key import read_kept
    from titans3.supervisor import root_key
    from titans3.supervisor.folder import read_cluster
    from titans3.supervisor.lock import lock_stopped

    folder = os.path.abspath(data)
    cluster = read_cluster(folder)
    with open(file, "rb") as opened:
        kept = read_kept(opened.read(_FILE_BYTES_MAX))
    lock = lock_stopped(folder)
    try:
        count = root_key.restore(folder, cluster, kept)
    finally:
        os.close(lock)
    Session(as_json=as_json).done(f"root key {kept.id} is on {count} more volumes of {folder}", key=kept.id, volumes=count)
