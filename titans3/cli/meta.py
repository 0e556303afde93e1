"""``titans3 tools meta``: check, copy, bring back and show the metadata of a node that is stopped.

Invariants
* A server that runs is refused by name.
* ``restore`` and ``rebuild`` alone change metadata. They touch what is readable only with ``--overwrite``, keep what they replace under
  another name, and say what is lost.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import click

from titans3.cli.offline import (
    data_option,
    folder_of,
    json_option,
    key_text,
    lock_cluster,
    lock_volumes,
    printable,
    show_json,
    show_report,
    show_table,
    volume_paths,
)

if TYPE_CHECKING:
    from titans3.jobs.rebuild import Outcome, Plan
    from titans3.jobs.snapshot import Summary
    from titans3.supervisor.folder import ClusterFile

_SHOWN = 20  # lost objects that a table names; --json names all

_volumes = click.option("--volume", "volumes", type=click.IntRange(0), multiple=True, metavar="N", help="Only this volume; repeatable.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace metadata that can be read, too.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done and lost; change nothing.")


@click.group()
def meta() -> None:
    """Rows of the metadata."""


@meta.command("verify")
@data_option
@json_option
def verify_meta(data: str | None, as_json: bool) -> int:
    """Check volumes as ``disk verify`` does, then every row, its references and the counters. Exit code 1 with findings."""
    from titans3.jobs.references import verify_rows
    from titans3.jobs.verify import OfflineVolume, Report, verify_volume

    report = Report()
    with ExitStack() as stack:
        volumes = [OfflineVolume(path, stack) for path in lock_volumes(folder_of(data), stack)]
        for volume in volumes:
            verify_volume(volume, report)
        verify_rows(volumes, report)
    return show_report(report, as_json)


@meta.command("snapshot")
@click.argument("file", metavar="FILE")
@data_option
@click.option("--replace", is_flag=True, help="Replace a file that is there already.")
@json_option
def take_snapshot(file: str, data: str | None, replace: bool, as_json: bool) -> int:
    """Copy the metadata of all volumes, the control plane with it, into one checksummed file (0600), also what only the log holds yet."""
    from titans3 import __version__
    from titans3.clock import SystemClock
    from titans3.errors import ConfigError
    from titans3.jobs.replay import Replayed
    from titans3.jobs.snapshot import Head, VolumeHead, VolumeName, VolumeRows, write_snapshot
    from titans3.jobs.verify import OfflineVolume

    folder = folder_of(data)
    if not os.path.isdir(os.path.dirname(os.path.abspath(file))):
        raise ConfigError(f"{os.path.dirname(os.path.abspath(file))} is no folder")
    with ExitStack() as stack:
        cluster = lock_cluster(folder, stack)
        volumes = [OfflineVolume(path, stack) for path in volume_paths(folder, cluster)]
        names = tuple(VolumeName(index, volume.identity.uuid_bytes) for index, volume in enumerate(volumes))
        head = Head(1, volumes[0].identity.cluster_bytes, SystemClock().wall_ms(), __version__, cluster.root_key, names)
        parts, damaged, replayed = [], [], 0
        for index, volume in enumerate(volumes):
            rows = Replayed(volume)
            stack.callback(rows.close)
            replayed += rows.replayed
            damaged += [f"group {gid} is damaged: {state.damaged}" for gid, state in rows.states.items() if state.damaged]
            parts.append(VolumeRows(VolumeHead(index, rows.position, rows.states), rows.rows()))
        written = write_snapshot(file, head, parts, replace=replace)
    if as_json:
        show_json({**{name: getattr(written, name) for name in written.__struct_fields__}, "replayed": replayed, "damaged": damaged})
    else:
        click.echo(f"{written.rows} rows of {len(volumes)} volumes, {written.bytes} bytes in {written.path}")
        click.echo(f"sha256 {written.sha256}")
        if replayed:
            click.echo(f"{replayed} entries that only the log held are in it: the server was killed")
        for text in damaged:
            click.echo(printable(text), err=True)
    return 1 if damaged else 0


@meta.command("restore")
@click.argument("file", metavar="FILE")
@data_option
@_volumes
@_overwrite
@click.option("--no-replay", is_flag=True, help="Leave out what the log holds behind the snapshot: back to that moment.")
@_dry_run
@json_option
def restore_snapshot(
    file: str, data: str | None, volumes: tuple[int, ...], overwrite: bool, no_replay: bool, dry_run: bool, as_json: bool
) -> int:
    """Bring back metadata from a snapshot and what the log still holds behind it: of those volumes whose metadata is lost or damaged.

    Exit code 1 if something is missing afterwards, with a list of it.
    """
    from titans3.jobs.snapshot import check_snapshot

    summary = check_snapshot(file)
    return _remake(
        data, volumes, overwrite, as_json, snapshot=(os.path.abspath(file), summary), replay=not no_replay, adopt=False, dry_run=dry_run
    )


@meta.command("rebuild")
@data_option
@click.option("--snapshot", metavar="FILE", help="Begin with this snapshot, the newest there is. Without one much is lost for good.")
@_volumes
@_overwrite
@_dry_run
@json_option
def rebuild(data: str | None, snapshot: str | None, volumes: tuple[int, ...], overwrite: bool, dry_run: bool, as_json: bool) -> int:
    """Make metadata anew from a snapshot, the log, and the segments: objects without a row get one as far as their extents tell.

    Exit code 1 if something is missing afterwards, with a list of it.
    """
    from titans3.jobs.snapshot import check_snapshot

    base = None if snapshot is None else (os.path.abspath(snapshot), check_snapshot(snapshot))
    return _remake(data, volumes, overwrite, as_json, snapshot=base, replay=True, adopt=True, dry_run=dry_run)


def _remake(
    data: str | None,
    volumes: tuple[int, ...],
    overwrite: bool,
    as_json: bool,
    *,
    snapshot: tuple[str, Summary] | None,
    replay: bool,
    adopt: bool,
    dry_run: bool,
) -> int:
    """Restore or rebuild; the exit code."""
    from titans3.clock import SystemClock
    from titans3.config.sources import load
    from titans3.jobs.rebuild import Plan, Rebuild

    folder = folder_of(data)
    with ExitStack() as stack:
        cluster = lock_cluster(folder, stack)
        paths = volume_paths(folder, cluster)
        if snapshot is not None:
            _check_fit(snapshot, cluster)
        targets = _targets(paths, volumes, overwrite)
        plan = Plan(
            folder,
            tuple(paths),
            cluster.group_volume,
            targets,
            snapshot,
            replay,
            adopt,
            dry_run,
            SystemClock().wall_ms(),
            load(None)[0].s3.region,
        )
        outcome = Rebuild(plan, stack).run()
    if as_json:
        show_json(_told(outcome, plan))
    else:
        _show(outcome, plan)
    return 0 if outcome.is_complete else 1


def _check_fit(snapshot: tuple[str, Summary], cluster: ClusterFile) -> None:
    """Raises ConfigError for a snapshot of another node."""
    from titans3.errors import ConfigError

    head = snapshot[1].head
    ours = tuple(bytes.fromhex(row.uuid.replace("-", "")) for row in cluster.volumes)
    if head.cluster != bytes.fromhex(cluster.cluster.replace("-", "")) or tuple(name.uuid for name in head.volumes) != ours:
        raise ConfigError(f"{snapshot[0]} is a snapshot of another data folder: its cluster or volumes are not those of cluster.json")


def _targets(paths: list[str], wanted: tuple[int, ...], overwrite: bool) -> tuple[int, ...]:
    """Volumes to make anew. Raises ConfigError if that would overwrite readable metadata, or leave unreadable metadata."""
    from titans3.errors import ConfigError
    from titans3.jobs.rebuild import unfit

    causes = {index: cause for index, path in enumerate(paths) if (cause := unfit(path))}
    for index in wanted:
        if index >= len(paths):
            raise ConfigError(f"there is no volume {index}; the folder has 0 to {len(paths) - 1}")
    chosen = sorted(set(wanted)) or (list(range(len(paths))) if overwrite else sorted(causes))
    readable = [index for index in chosen if index not in causes]
    if not chosen or (readable and not overwrite):
        which = "every volume" if not causes else "volume " + ", ".join(map(str, readable))
        raise ConfigError(
            f"the metadata of {which} can be read and may be newer; nothing was changed. --overwrite replaces it all the same"
        )
    left = sorted(causes.keys() - set(chosen))
    if left:
        raise ConfigError(
            f"the metadata of volume {left[0]} cannot be read either ({causes[left[0]]}); leave out --volume, or name it, too"
        )
    return tuple(chosen)


def _told(outcome: Outcome, plan: Plan) -> dict[str, object]:
    names = outcome.names
    return {
        "dry_run": plan.dry_run, "complete": outcome.is_complete, "objects": outcome.objects,
        "snapshot": None if plan.snapshot is None else {"file": plan.snapshot[0], "created_ms": plan.snapshot[1].head.created_ms},
        "volumes": outcome.volumes,
        "lost": [
            {"bucket": names.get(one.bucket, one.bucket), "key": key_text(one.key), "version_id": one.version_id, "size": one.size,
             "upload_id": one.upload_id.hex()}
            for one in outcome.lost
        ],
        "adopted": [
            {"bucket": names.get(one.bucket, one.bucket), "key": key_text(one.key), "size": one.size, "time_ms": one.time_ms}
            for one in outcome.adopted
        ],
        "named_buckets": {str(bucket): name for bucket, name in outcome.named_buckets.items()},
        "notes": outcome.notes, "left": {"bodies": outcome.left[0], "bytes": outcome.left[1]},
    }  # fmt: skip


def _show(outcome: Outcome, plan: Plan) -> None:
    rows: list[tuple[object, ...]] = [("volume", "snapshot rows", "replayed", "patched", "dropped", "missing entries", "log")]
    for one in outcome.volumes:
        done = one.revival
        missing = sum(gap.last - gap.first + 1 for gap in done.gaps)
        log = "whole" if one.is_whole else f"{one.missing_batches} batches missing" if one.missing_batches else "not whole"
        rows.append((one.index, done.snapshot_rows, done.replayed, done.patched, done.dropped, missing, log))
    show_table(rows, left=lambda column: column == 6)
    click.echo(f"{outcome.objects} objects have rows" + (" (dry run: nothing was changed)" if plan.dry_run else ""))
    for one in outcome.volumes:
        for problem in one.problems:
            click.echo(printable(f"volume {one.index}: {problem}"), err=True)
        for what, count in one.revival.undecided.items():
            click.echo(f"volume {one.index}: {count} entries were left out, what came before them is missing: {what}", err=True)
        if one.kept:
            click.echo(f"volume {one.index}: the metadata before is kept in {one.kept}; remove it when all is well")
    for bucket, name in outcome.named_buckets.items():
        click.echo(f"the name of bucket id {bucket} is lost; it is {name} now, and the root account's", err=True)
    _show_bodies(outcome)
    for note in outcome.notes:
        click.echo(note, err=True)
    if outcome.is_complete:
        click.echo("complete: nothing that was acknowledged is missing")
    else:
        click.echo("NOT COMPLETE: what is missing is named above; --json names all of it", err=True)


def _show_bodies(outcome: Outcome) -> None:
    def name(bucket: int, key: bytes) -> str:
        return printable(f"{outcome.names.get(bucket, f'bucket id {bucket}')}/{key_text(key)}")

    if outcome.left[0]:
        click.echo(f"{outcome.left[0]} bodies, {outcome.left[1]} bytes, lie in segments without a row", err=True)
    if outcome.adopted:
        click.echo(
            f"{len(outcome.adopted)} objects were brought back from their extents; their tags, grants and older versions are lost:"
        )
    for found in outcome.adopted[:_SHOWN]:
        click.echo(f"  {name(found.bucket, found.key)}  {found.size} bytes")
    if outcome.lost:
        click.echo(f"{len(outcome.lost)} versions or uploads have no bytes any more and were taken away:", err=True)
    for gone in outcome.lost[:_SHOWN]:
        what = f"upload {gone.upload_id.hex()}" if gone.upload_id else f"{gone.size} bytes, version {gone.version_id}"
        click.echo(f"  {name(gone.bucket, gone.key)}  {what}", err=True)
    if max(len(outcome.adopted), len(outcome.lost)) > _SHOWN:
        click.echo("  … --json names all of them", err=True)


@meta.command("dump")
@data_option
@click.option("--bucket", metavar="NAME", help="Only rows of this bucket.")
@click.option("--prefix", default="", metavar="TEXT", help="Only rows of keys that begin so.")
@click.option("--group", type=int, metavar="N", help="Only rows of this group; -1 is the control plane's.")
@click.option("--table", metavar="NAME", help="Only rows of this table: objects, versions, manifest, uploads, parts, shards, control …")
@click.option("--out", metavar="FILE", help="Into a new file (0600) instead of standard output.")
def dump_rows(data: str | None, bucket: str | None, prefix: str, group: int | None, table: str | None, out: str | None) -> int:
    """Rows as JSON lines, as the next start would have them. Secrets are never shown: sealed texts and hashes as length and digest."""
    import msgspec

    from titans3.errors import ConfigError
    from titans3.jobs.dump import TABLES, Wanted, dump
    from titans3.jobs.replay import Replayed
    from titans3.jobs.verify import OfflineVolume
    from titans3.limits import SYSTEM_GROUP
    from titans3.meta.control import list_records
    from titans3.model.control import bucket_of

    if table is not None and table not in TABLES:
        raise ConfigError(f"there is no table {printable(table)}; there are {', '.join(TABLES)}")
    with ExitStack() as stack:
        volumes: list[Replayed] = []
        for path in lock_volumes(folder_of(data), stack):
            replayed = Replayed(OfflineVolume(path, stack))
            stack.callback(replayed.close)
            volumes.append(replayed)
        buckets = [bucket_of(record) for record in list_records(volumes[0].view, SYSTEM_GROUP, "/buckets/")]
        names = {record.bucket: record.name for record in buckets}
        number = next((record.bucket for record in buckets if record.name == bucket), None)
        if bucket is not None and number is None:
            raise ConfigError(f"there is no bucket {printable(bucket)}")
        wanted = Wanted(number, os.fsencode(prefix), SYSTEM_GROUP if group == -1 else group, table or "")
        stream: BinaryIO
        if out is None:
            stream = sys.stdout.buffer
        else:
            fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            stream = stack.enter_context(open(fd, "wb"))
        for index, one in enumerate(volumes):
            for row in dump(one, index, wanted, names):
                stream.write(msgspec.json.encode(row) + b"\n")
        stream.flush()
    return 0
