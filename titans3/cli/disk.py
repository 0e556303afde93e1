"""``titans3 tools disk`` and ``titans3 tools meta``: check volumes that no server holds, and read bodies out of damaged ones.

Invariant: a server that runs is refused by name; nothing but the output folder of ``salvage`` is written.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from titans3.jobs.verify import Report

_data = click.option("--data", metavar="PATH", help="Data folder.  [default: as for run]")
_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")


@click.group()
def disk() -> None:
    """Segments of volumes."""


@click.group()
def meta() -> None:
    """Rows of the metadata."""


@disk.command("ls")
@_data
@_json
def list_disks(data: str | None, as_json: bool) -> int:
    """The volumes of a data folder: space, segments, what a killed server left in its log. Exit code 1 if one is damaged or missing."""
    import msgspec

    from titans3.cli.ring import printable
    from titans3.ctl.quantity import shown_size
    from titans3.errors import TitanError
    from titans3.jobs.inspect import VolumeShown, show_volume
    from titans3.jobs.verify import OfflineVolume

    rows: list[VolumeShown | str] = []
    with ExitStack() as stack:
        for path in _volumes(_folder(data), stack):
            try:
                rows.append(show_volume(OfflineVolume(path, stack), segments=False))
            except (TitanError, OSError) as error:
                rows.append(f"{path}: {error}")
    wrong = sum(isinstance(row, str) or bool(row.findings) for row in rows)
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode({"problem": row} if isinstance(row, str) else row))
        return 1 if wrong else 0
    click.echo("volume  log         data        live        metadata    free        damaged  pending  path")
    for row in rows:
        if isinstance(row, str):
            click.echo(printable(row), err=True)
            continue
        sizes = "  ".join(
            f"{shown_size(size):<10}" for size in (row.log_bytes, row.data_bytes, row.live_bytes, row.metadata_bytes, row.free_bytes)
        )
        click.echo(f"{row.index:>6}  {sizes}  {row.damaged_groups + len(row.findings):>7}  {row.pending:>7}  {printable(row.path)}")
        for finding in row.findings:
            click.echo(printable(finding), err=True)
    return 1 if wrong else 0


@disk.command()
@click.argument("path", metavar="VOLUME")
@_json
def info(path: str, as_json: bool) -> int:
    """One volume in detail: identity, groups, every segment. Exit code 1 with findings."""
    import msgspec

    from titans3.cli.ring import printable
    from titans3.jobs.inspect import show_volume
    from titans3.jobs.verify import OfflineVolume

    with ExitStack() as stack:
        shown = show_volume(OfflineVolume(os.path.abspath(path), stack), segments=True)
    if as_json:
        click.echo(msgspec.json.encode(shown))
        return 1 if shown.findings else 0
    for name, value in msgspec.structs.asdict(shown).items():
        if name not in ("segments", "findings"):
            click.echo(f"{name.replace('_', ' '):14}  {printable(str(value))}")
    click.echo("segment               kind    state   epoch  used          live")
    for segment in shown.segments:
        click.echo(
            f"{segment.segment:20}  {segment.kind:6}  {segment.state:6}  {segment.epoch:>5}  {segment.used:<12}  {segment.live}"
        )
    for finding in shown.findings:
        click.echo(printable(finding), err=True)
    return 1 if shown.findings else 0


@disk.command()
@click.argument("target", metavar="BUCKET/KEY | SEGMENT:OFFSET")
@click.option("--volume", metavar="VOLUME", help="For SEGMENT:OFFSET: the volume's folder.")
@click.option("--save", metavar="FILE", help="For SEGMENT:OFFSET: write the body to a new file.")
@_data
def inspect(target: str, volume: str | None, save: str | None, data: str | None) -> int:
    """What is stored of a key, version by version, and where; or the record or extent at a place. JSON; exit code 1 if bytes are damaged.

    A place is a segment's number (16 hex digits) and the byte where a header begins, as `inspect BUCKET/KEY` tells them.
    """
    from titans3.errors import ConfigError
    from titans3.jobs.inspect import show_place
    from titans3.jobs.verify import OfflineVolume

    segment, colon, offset = target.partition(":")
    if volume is not None:
        if not colon or len(segment) != 16 or not offset.isascii() or not offset.isdecimal():
            raise ConfigError(f"{target} is no place; with --volume it is SEGMENT:OFFSET, as 0000000100000002:4096")
        try:
            number = int(segment, 16)
        except ValueError:
            raise ConfigError(f"{segment} is no segment: 16 hex digits are") from None
        with ExitStack() as stack:
            shown = show_place(OfflineVolume(os.path.abspath(volume), stack), number, int(offset), save=save or "")
        click.echo(_pretty(shown))
        return 1 if shown.get("body_matches") is False else 0
    if save is not None:
        raise ConfigError("--save is for a place: give --volume and SEGMENT:OFFSET")
    versions = _versions(target, _folder(data))
    click.echo(_pretty(versions))
    return 1 if any(extent["state"] != "good" for version in versions for extent in version["extents"]) else 0


def _versions(target: str, folder: str) -> list[dict[str, Any]]:
    """Raises ConfigError for what is not there."""
    from titans3.cli.ring import find_bucket
    from titans3.errors import ConfigError
    from titans3.jobs.inspect import show_key
    from titans3.jobs.verify import OfflineVolume
    from titans3.ring.placement import ring_hash
    from titans3.supervisor.folder import read_cluster

    name, slash, text = target.partition("/")
    key = os.fsencode(text)
    if not slash or not key:
        raise ConfigError(f"{target} names no key; give BUCKET/KEY, or SEGMENT:OFFSET with --volume")
    cluster = read_cluster(folder)
    with ExitStack() as stack:
        paths = _volumes(folder, stack)
        record = find_bucket(folder, cluster, name)  # it opens the tree for itself
        volumes = [OfflineVolume(path, stack) for path in paths]
        gid = ring_hash(record.bucket, key, record.shards)
        found = show_key(volumes, cluster.group_volume[gid], gid, record.bucket, key)
    if not found:
        raise ConfigError(f"{name} has no key {text!r}, as of the last checkpoint")
    return found


def _pretty(shown: object) -> str:
    import json

    return json.dumps(shown, indent=2, ensure_ascii=True)


@disk.command("verify")
@click.argument("paths", nargs=-1, metavar="[VOLUME …]")
@_data
def verify_disk(paths: tuple[str, ...], data: str | None) -> int:
    """Read everything alive of the volumes (default: all of the data folder) and check it. Exit code 1 with findings."""
    from titans3.jobs.verify import OfflineVolume, Report, verify_volume

    report = Report()
    with ExitStack() as stack:
        for path in paths or _volumes(_folder(data), stack):
            verify_volume(OfflineVolume(os.path.abspath(path), stack), report)
    return _show(report)


@meta.command("verify")
@_data
def verify_meta(data: str | None) -> int:
    """Check volumes as ``disk verify`` does, then every row, its references and the counters. Exit code 1 with findings."""
    from titans3.jobs.references import verify_rows
    from titans3.jobs.verify import OfflineVolume, Report, verify_volume

    report = Report()
    with ExitStack() as stack:
        volumes = [OfflineVolume(path, stack) for path in _volumes(_folder(data), stack)]
        for volume in volumes:
            verify_volume(volume, report)
        verify_rows(volumes, report)
    return _show(report)


@meta.command()
@click.option("--bucket", metavar="NAME", help="Of one bucket alone.")
@click.option("--prefix", metavar="TEXT", default="", help="With --bucket: keys that begin so.")
@click.option("--group", "groups", type=int, multiple=True, metavar="N", help="Of this group alone; may be given again.")
@_data
def dump(bucket: str | None, prefix: str, groups: tuple[int, ...], data: str | None) -> int:
    """Every row as one line of JSON. Records that may hold secrets are told by length and digest. Exit code 1 if a row is damaged."""
    import msgspec

    from titans3.cli.ring import find_bucket
    from titans3.errors import ConfigError
    from titans3.jobs.inspect import dump_rows
    from titans3.jobs.verify import OfflineVolume
    from titans3.supervisor.folder import read_cluster

    if prefix and bucket is None:
        raise ConfigError("--prefix needs --bucket")
    folder, damaged = _folder(data), 0
    with ExitStack() as stack:
        paths = _volumes(folder, stack)
        number = -1 if bucket is None else find_bucket(folder, read_cluster(folder), bucket).bucket
        for path in paths:
            for row in dump_rows(OfflineVolume(path, stack), groups=frozenset(groups), bucket=number, prefix=os.fsencode(prefix)):
                damaged += "damaged" in row
                click.echo(msgspec.json.encode(row))
    return 1 if damaged else 0


@disk.command()
@click.argument("paths", nargs=-1, metavar="[VOLUME …]")
@click.option("--out", required=True, metavar="DIR", help="A new folder for what is found.")
@_data
def salvage(paths: tuple[str, ...], out: str, data: str | None) -> int:
    """Write every object that the segments alone tell of into files, when the metadata is lost. Exit code 1 if something is missing."""
    from titans3.engine.files import OsFiles
    from titans3.engine.identity import lock_volume
    from titans3.errors import ConfigError
    from titans3.jobs.salvage import Salvage

    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise ConfigError(f"{out} is there already; give a new or empty folder")
    work, files = Salvage(), OsFiles()
    with ExitStack() as stack:
        for path in paths or _volumes(_folder(data), stack):
            if not os.path.isdir(os.path.join(path, "log")):
                raise ConfigError(f"{path} is no volume: it has no folder log/")
            if os.access(path, os.W_OK):  # a rescued disk may be mounted read-only, where no server can be
                stack.callback(files.close, lock_volume(files, path))
            work.read(os.path.abspath(path))
        done = work.write(out)
    click.echo(f"{done.objects} objects, {done.bytes} bytes in {out}; manifest.jsonl names their buckets and keys")
    if done.others:
        click.echo(f"{done.others} bodies in {out}/#others: the latest of their keys is damaged, or may never have been committed")
    for name in done.failed:
        click.echo(f"not written: {name}", err=True)
    for problem in done.problems:
        click.echo(problem, err=True)
    return 1 if done.failed or done.problems else 0


def _folder(data: str | None) -> str:
    from titans3.config.sources import load

    return os.path.abspath(load(None)[0].node.data[0] if data is None else data)


def _volumes(folder: str, stack: ExitStack) -> list[str]:
    """Volumes of a data folder, whose lock is held until the end of ``stack``. Raises ConfigError when a server runs."""
    from titans3.supervisor.folder import read_cluster
    from titans3.supervisor.lock import lock_folder

    cluster = read_cluster(folder)
    stack.callback(os.close, lock_folder(folder))
    return [os.path.join(folder, row.path) for row in cluster.volumes]


def _show(report: Report) -> int:
    click.echo(
        f"{report.segments} segments, {report.bodies} small bodies, {report.extents} extents, {report.bytes} bytes, {report.rows} rows read"
    )
    if report.unnamed:
        click.echo(f"{report.unnamed} extents that nothing names; the sweep of a running server frees them")
    if report.pending:
        click.echo(
            f"{report.pending} entries of logs are not in the trees yet, the server was killed; its next start replays them"
            + (f", and settles {report.unsettled} references" if report.unsettled else "")
        )
    for finding in report.findings:
        click.echo(finding, err=True)
    if report.cut:
        click.echo(f"and more; the first {len(report.findings)} are listed", err=True)
    click.echo("clean" if not report.findings else f"{len(report.findings)} findings")
    return 1 if report.findings else 0
