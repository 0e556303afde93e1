"""``titanctl object``: put, get, list, remove, copy."""

from __future__ import annotations

import mimetypes
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from xml.sax.saxutils import escape

import click

from titans3.ctl import listing
from titans3.ctl.address import Address, need_key, parse
from titans3.ctl.listing import Item
from titans3.ctl.quantity import DURATION, shown_size
from titans3.ctl.session import Session, remote
from titans3.errors import ConfigError, DiskError

_DELETE_MAX = 1000
_SHARE_SECONDS = 7 * 86_400


@click.group("object")
def object_() -> None:
    """Objects. An address is BUCKET/KEY; ALIAS/BUCKET/KEY for another server."""


@object_.command()
@click.argument("file", metavar="FILE")
@click.argument("address", metavar="BUCKET[/KEY]")
@click.option("--type", "content_type", metavar="TYPE", help="Content type; by the file's name without it.")
@click.option("--meta", multiple=True, metavar="NAME=VALUE", help="User metadata. Can be repeated.")
@remote
def put(session: Session, file: str, address: str, content_type: str | None, meta: tuple[str, ...]) -> None:
    """Upload a file, or standard input as -. Without a key, or with one that ends in /, the file's name is used."""
    from titans3.ctl.transfer import progress, upload

    target = parse(address, session)
    if not target.bucket:
        raise ConfigError(f"{address} names no bucket")
    if not target.key or target.key.endswith(b"/"):
        if file == "-":
            raise click.UsageError("standard input needs a key")
        target = target.with_key(target.key + os.fsencode(os.path.basename(file)))
    headers = _metadata(meta) | _type_header(file if content_type is None else "", content_type)
    if file == "-":
        total = upload(sys.stdin.buffer, target, headers)
    else:
        with (
            open(file, "rb") as source,
            progress(os.fstat(source.fileno()).st_size, file, shown=not session.as_json) as tick,
        ):
            total = upload(source, target, headers, tick)
    session.done(f"{target.shown}: {shown_size(total)}", bucket=target.bucket, key=os.fsdecode(target.key), bytes=total)


@object_.command()
@click.argument("address", metavar="BUCKET/KEY")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--version-id", default="", metavar="ID")
@remote
def get(session: Session, address: str, file: str | None, version_id: str) -> None:
    """Download an object into a file: by its own name here, into a folder, or to standard output as -."""
    from titans3.ctl.transfer import download, open_object, progress, stream

    source = need_key(address, session)
    if file == "-":
        stream(open_object(source, version_id), sys.stdout.buffer)
        return
    name = os.path.basename(os.fsdecode(source.key))
    path = os.path.join(file, name) if file and os.path.isdir(file) else file or name
    if not name and path == name:
        raise ConfigError(f"{address} ends in a slash; name the file")
    with progress(0, path, shown=not session.as_json) as tick:
        total = download(source, path, tick, version_id)
    session.done(f"{path}: {shown_size(total)}", file=path, bytes=total)


@object_.command()
@click.argument("address", metavar="BUCKET/KEY")
@click.option("--version-id", default="", metavar="ID")
@remote
def cat(session: Session, address: str, version_id: str) -> None:
    """Print an object's bytes."""
    from titans3.ctl.transfer import open_object, stream

    stream(open_object(need_key(address, session), version_id), sys.stdout.buffer)


@object_.command()
@click.argument("address", metavar="BUCKET[/PREFIX]")
@click.option("-r", "--recursive", is_flag=True, help="Everything below, not up to the next slash.")
@click.option("--versions", is_flag=True, help="Every version and delete marker.")
@remote
def ls(session: Session, address: str, recursive: bool, versions: bool) -> None:
    """List objects by prefix."""
    source = parse(address, session)
    if not source.bucket:
        raise ConfigError(f"{address} names no bucket; titanctl bucket ls lists them")
    items = (listing.versions if versions else listing.objects)(source, recursive=recursive)
    if session.as_json:
        for item in items:
            session.show(_plain(item))
        return
    for item in items:
        click.echo(_line(item, versions=versions))


def _line(item: Item, *, versions: bool) -> str:
    key = os.fsdecode(item.key)
    shown = key if key.isprintable() else "".join(char if char.isprintable() else "?" for char in key)
    size = "" if item.is_prefix else "deleted" if item.is_marker else shown_size(item.size)
    version = f"  {item.version_id:32}" if versions else ""
    return f"{item.modified[:19]:19}  {size:>10}{version}  {shown}"


def _plain(item: Item) -> dict[str, Any]:
    if item.is_prefix:
        return {"prefix": os.fsdecode(item.key)}
    found: dict[str, Any] = {"key": os.fsdecode(item.key), "size": item.size, "etag": item.etag, "modified": item.modified}
    if item.version_id:
        found |= {"version_id": item.version_id, "is_latest": item.is_latest, "is_delete_marker": item.is_marker}
    return found


@object_.command()
@click.argument("address", metavar="BUCKET/KEY")
@click.option("--version-id", default="", metavar="ID")
@remote
def stat(session: Session, address: str, version_id: str) -> None:
    """An object's size, type, checksums and metadata."""
    source = need_key(address, session)
    query = {"versionId": version_id} if version_id else {}
    headers = source.client.s3("HEAD", source.bucket, source.key, query, {"x-amz-checksum-mode": "ENABLED"}).headers
    found: dict[str, Any] = {
        "bucket": source.bucket, "key": os.fsdecode(source.key), "size": int(headers["content-length"]), "etag": headers["etag"].strip('"'),
        "modified": headers["last-modified"], "type": headers.get("content-type", ""),
    }  # fmt: skip
    for header, name in (
        ("x-amz-version-id", "version_id"),
        ("x-amz-storage-class", "storage_class"),
        ("x-amz-tagging-count", "tags"),
    ):
        if header in headers:
            found[name] = headers[header]
    found |= {
        header.removeprefix("x-amz-"): value
        for header, value in sorted(headers.items())
        if header.startswith(("x-amz-checksum-", "x-amz-meta-"))
    }
    session.show(found)


@object_.command()
@click.argument("address", metavar="BUCKET/KEY")
@click.option("-r", "--recursive", is_flag=True, help="Everything whose key begins so.")
@click.option("--versions", is_flag=True, help="Every version and delete marker, for good.")
@click.option("--version-id", default="", metavar="ID", help="One version, for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def rm(session: Session, address: str, recursive: bool, versions: bool, version_id: str, yes: bool) -> None:
    """Remove an object; with -r everything below."""
    target = parse(address, session)
    if not target.bucket or (not target.key and not recursive):
        raise ConfigError(
            f"{address} names no object; for a whole bucket: titanctl object rm -r, or titanctl bucket rm --force"
        )
    if version_id and (recursive or versions):
        raise click.UsageError("--version-id names one version; it excludes -r and --versions")
    if not recursive and not versions:
        target.client.s3("DELETE", target.bucket, target.key, {"versionId": version_id} if version_id else {})
        session.done(f"{target.shown} is gone", removed=1)
        return
    session.confirm(
        f"Remove everything in {target.shown}{'*' if recursive else ''}{' with all versions' if versions else ''}?", yes=yes
    )
    items: Iterator[Item] = (listing.versions if versions else listing.objects)(target, recursive=True)
    count = delete_all(target, (item for item in items if recursive or item.key == target.key))
    session.done(f"{count} removed", removed=count)


def delete_all(address: Address, items: Iterable[Item]) -> int:
    """Remove versions, or objects where an item names none; how many. Raises DiskError if some could not be."""
    count = 0
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == _DELETE_MAX:
            count += _delete(address, batch)
            batch = []
    return count + (_delete(address, batch) if batch else 0)


def _delete(address: Address, batch: list[Item]) -> int:
    from base64 import b64encode
    from hashlib import sha256

    entries = "".join(
        f"<Object><Key>{escape(item.key.decode('utf-8', 'replace'))}</Key>"
        + (f"<VersionId>{item.version_id}</VersionId>" if item.version_id else "")
        + "</Object>"
        for item in batch
    )
    body = f"<Delete><Quiet>true</Quiet>{entries}</Delete>".encode()
    proof = {"x-amz-checksum-sha256": b64encode(sha256(body).digest()).decode()}
    root = address.client.s3("POST", address.bucket, query={"delete": ""}, headers=proof, body=body).xml
    errors = root.findall("Error")
    if errors:
        raise DiskError(
            f"{len(errors)} of {len(batch)} could not be removed: {errors[0].findtext('Key')}: {errors[0].findtext('Message')}"
        )
    return len(batch)


@object_.command()
@click.argument("address", metavar="BUCKET/KEY")
@click.option(
    "--expires",
    type=DURATION,
    default=_SHARE_SECONDS,
    metavar="DURATION",
    help="How long it works, at most 7d.  [default: 7d]",
)
@click.option("--upload", is_flag=True, help="A URL to PUT to instead.")
@remote
def share(session: Session, address: str, expires: int, upload: bool) -> None:
    """Print a URL that works without keys."""
    source = need_key(address, session)
    if not 1 <= expires <= _SHARE_SECONDS:
        raise click.UsageError("--expires is 1s to 7d")
    url = source.client.presigned("PUT" if upload else "GET", source.bucket, source.key, expires)
    session.show({"url": url, "expires_seconds": expires}, url)


@object_.command()
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("-r", "--recursive", is_flag=True, help="Everything below.")
@click.option("--overwrite", is_flag=True, help="Also what is there already with the same size and time or checksum.")
@remote
def cp(session: Session, source: str, target: str, recursive: bool, overwrite: bool) -> None:
    """Copy between files and servers; s3://BUCKET/KEY or ALIAS/BUCKET/KEY is remote, anything else a file.

    With -r what is there already and equal is skipped, so that an interrupted copy goes on where it was.

    Examples: titanctl object cp -r photos s3://photos/2026/ · titanctl object cp -r prod/photos backup/photos
    """
    from titans3.ctl.copying import copy

    done = copy(session, source, target, recursive=recursive, overwrite=overwrite)
    session.done(f"{done.copied} copied, {shown_size(done.bytes)}; {done.skipped} were there", **done.plain())


def _metadata(items: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--meta {item}: NAME=VALUE is needed")
        found[f"x-amz-meta-{name.lower()}"] = value
    return found


def _type_header(name: str, given: str | None) -> dict[str, str]:
    kind = given or mimetypes.guess_type(name)[0]
    return {"content-type": kind} if kind else {}
