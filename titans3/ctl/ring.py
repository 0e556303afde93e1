"""``titanctl ring``: where buckets and keys belong on the running server. ``titans3 tools ring`` says it of a stopped one."""

from __future__ import annotations

import os
from typing import Any

import click

from titans3.ctl.address import need_bucket, need_key
from titans3.ctl.client import segment
from titans3.ctl.quantity import shown_size
from titans3.ctl.session import Session, cell, remote

_PLACE = ("shard", "group", "volume", "worker", "path")


@click.group()
def ring() -> None:
    """Where buckets and keys belong."""


@ring.command()
@click.argument("name", required=False, metavar="[BUCKET]")
@remote
def show(session: Session, name: str | None) -> None:
    """Workers and volumes with their groups and share of the hash space; with BUCKET, the places of its shards."""
    if name:
        address = need_bucket(name, session)
        found = address.client.admin("GET", f"/ring/{segment(address.bucket)}")
        if session.as_json:
            session.show(found)
            return
        click.echo(f"bucket {found['bucket']}, id {found['id']}, {found['shards']} shards\n")
        session.show_list(found["places"], _PLACE)
        return
    found = session.client.admin("GET", "/ring")
    if session.as_json:
        session.show(found)
        return
    click.echo(f"cluster {found['cluster']}, {found['groups']} groups; the system group (control plane) lies on volume 0\n")
    session.show_list([_shared(row) for row in found["workers"]], ("worker", "volumes", "groups", "share"))
    click.echo()
    session.show_list([_shared(row) for row in found["volumes"]], ("volume", "worker", "groups", "share", "uuid", "path"))


def _shared(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"share": f"{row['share']:.1%}"}


@ring.command()
@click.argument("name", metavar="BUCKET/KEY")
@click.option("--version-id", default="", metavar="ID", help="This version instead of the newest.")
@remote
def locate(session: Session, name: str, version_id: str) -> int:
    """Shard, group, volume and worker of a key, and segment and offset of its bytes. Exit code 1 if there is no such version."""
    address = need_key(name, session)
    query = {"key": os.fsdecode(address.key)} | ({"version_id": version_id} if version_id else {})
    found = address.client.admin("GET", f"/ring/{segment(address.bucket)}/locate", query=query)
    version = found["version"]
    if session.as_json:
        session.show(found)
        return 0 if version else 1
    click.echo(f"bucket {found['bucket']}, id {found['id']}, {found['shards']} shards, key {cell(found['key'])}\n")
    session.show_list([found["place"]], _PLACE)
    click.echo()
    if version is None:
        click.echo("no such version" if version_id else "no such key; this is where it would be")
        return 1
    marker = ", a delete marker" if version["is_marker"] else ""
    click.echo(f"version {version['version_id']}, {shown_size(version['size'])}{marker}")
    if version["extents"]:
        click.echo()
        session.show_list(
            [row | {"segment": row["segment"] or "not there"} for row in version["extents"]],
            ("data_id", "volume", "segment", "offset", "length", "kind"),
        )
    if version["extents_count"] > len(version["extents"]):
        click.echo(f"and {version['extents_count'] - len(version['extents'])} more")
    return 0
