"""``titans3 tools disk``: what volumes are, what lies in them, whether it holds; and bodies out of damaged ones.

Invariants
* A server that runs is refused by name.
* ``format`` alone changes a volume, and says first what would be lost; ``salvage`` and ``inspect --save`` write where they are told.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from titans3.cli.offline import (
    chosen_volumes,
    data_option,
    folder_of,
    json_option,
    lock_cluster,
    lock_volumes,
    printable,
    show_json,
    show_report,
    show_table,
    volume_at,
    volume_paths,
)

if TYPE_CHECKING:
    from titans3.jobs.dissect import Piece
    from titans3.jobs.inventory import VolumeInfo


@click.group()
def disk() -> None:
    """Volumes and their segments."""


@disk.command("ls")
@data_option
@json_option
def list_volumes(data: str | None, as_json: bool) -> int:
    """Volumes of a data folder: identity, state, segments, space. Exit code 1 if one is not well."""
    from titans3.jobs.inventory import look

    folder = folder_of(data)
    with ExitStack() as stack:
        cluster = lock_cluster(folder, stack)
        found = [
            look(path, row.index, stack, cluster=cluster.cluster, uuid=row.uuid)
            for row, path in zip(cluster.volumes, volume_paths(folder, cluster), strict=True)
        ]
    if as_json:
        show_json({"folder": folder, "cluster": cluster.cluster, "volumes": [_facts(info) for info in found]})
    else:
        from titans3.cli.status import size

        click.echo(f"{folder}, cluster {cluster.cluster}")
        rows: list[tuple[object, ...]] = [("volume", "state", "log", "data", "size", "live", "dead", "free", "pending", "uuid", "path")]
        rows += [
            (info.index, info.state, info.count("log"), info.count("data"), *map(size, (info.size, info.live, info.dead, info.free)),
             info.pending, info.uuid or "-", info.path)
            for info in found
        ]  # fmt: skip
        show_table(rows, left=lambda column: column in (1, 9, 10))
        for info in found:
            for problem in info.problems:
                click.echo(printable(problem), err=True)
    return 0 if all(info.is_well for info in found) else 1


@disk.command("info")
@click.argument("volume")
@data_option
@json_option
def show_volume(volume: str, data: str | None, as_json: bool) -> int:
    """One volume in detail, by index or path: identity, formats, log, every segment. Exit code 1 if it is not well."""
    from titans3.jobs.inventory import look

    with ExitStack() as stack:
        path = chosen_volumes((volume,), data, stack)[0]
        info = look(path, -1, stack)
    if as_json:
        show_json(_facts(info) | {"segments": info.segments})
    else:
        _show_info(info)
    return 0 if info.is_well else 1


def _facts(info: VolumeInfo) -> dict[str, object]:
    """As JSON, the segments counted."""
    import msgspec

    told = msgspec.structs.asdict(info)
    del told["segments"]
    return told | {"segments": {"log": info.count("log"), "data": info.count("data")}}


def _show_info(info: VolumeInfo) -> None:
    from titans3.cli.status import size

    click.echo(f"volume   {info.index}, {info.path}: {info.state}")
    click.echo(f"identity {info.uuid or '-'} of cluster {info.cluster or '-'}, root key {'there' if info.has_root_key else 'missing'}")
    click.echo("formats  " + (", ".join(f"{name} {number}" for name, number in info.formats.items()) or "-"))
    if info.position is not None:
        at = info.position
        click.echo(f"log      checkpoint after batch {at.batch}: segment {at.segment:016x}, byte {at.offset}; epoch {at.epoch}")
    click.echo(f"pending  {info.pending} entries behind the checkpoint; {info.groups} groups, {len(info.damaged_groups)} damaged")
    click.echo(f"rows     {', '.join(f'{name} {count}' for name, count in info.rows.items()) or '-'}; {size(info.tree_bytes)} of B-tree")
    click.echo(
        f"space    {size(info.size)} in segments: {size(info.live)} live, {size(info.dead)} dead; {size(info.free)} free on the disk\n"
    )
    rows: list[tuple[object, ...]] = [("segment", "folder", "kind", "state", "epoch", "size", "live", "dead", "copies")]
    for one in info.segments:
        live, dead = ("-" if count < 0 else size(count) for count in (one.live, one.dead))
        rows.append((one.number, one.folder, one.kind, one.state, one.epoch, size(one.size), live, dead, "yes" if one.is_copies else ""))
    show_table(rows, left=lambda column: column in (1, 2, 3))
    for problem in info.problems:
        click.echo(printable(problem), err=True)


@disk.command("format")
@click.argument("volume", type=click.IntRange(0))
@data_option
@click.option("--erase", is_flag=True, help="Format a volume that holds something. Everything in it is lost.")
@json_option
def format_empty(volume: int, data: str | None, erase: bool, as_json: bool) -> int:
    """Make volume N of the data folder empty, at the place and with the identity that cluster.json has: after its disk was replaced.

    A volume that holds anything is refused, and what would be lost is shown; with --erase it is erased. Exit code 1 if refused.
    """
    from titans3.clock import SystemClock
    from titans3.errors import ConfigError
    from titans3.jobs.blank import Loss, blank_volume, loss_of

    folder = folder_of(data)
    with ExitStack() as stack:
        cluster = lock_cluster(folder, stack)
        path = volume_at(str(volume), volume_paths(folder, cluster))
        loss: Loss = loss_of(path, stack, group_count=cluster.group_volume.count(volume), is_system=volume == 0)
        if not loss.is_empty and not erase:
            if as_json:
                show_json({"volume": volume, "path": path, "formatted": False, "loss": loss})
            else:
                click.echo("\n".join(loss.lines()), err=True)
            raise ConfigError(f"{path} is not empty; nothing was changed. --erase formats it all the same")
        row = cluster.volumes[volume]
        paths, clock = volume_paths(folder, cluster), SystemClock()
        blank_volume(
            path,
            cluster=cluster.cluster,
            uuid=row.uuid,
            index=volume,
            created_ms=cluster.created_ms,
            now_ms=clock.wall_ms(),
            others=paths,
        )
    if as_json:
        show_json({"volume": volume, "path": path, "formatted": True, "loss": loss})
        return 0
    click.echo(f"volume {volume} is empty now: {path}")
    if not loss.is_empty:
        click.echo("erased: " + "; ".join(loss.lines()))
    click.echo("its groups have no rows and its extents are gone; `titans3 tools meta restore` brings back what a snapshot knows")
    return 0


@disk.command("verify")
@click.argument("paths", nargs=-1, metavar="[VOLUME …]")
@data_option
@json_option
def verify_disk(paths: tuple[str, ...], data: str | None, as_json: bool) -> int:
    """Read everything alive of the volumes (default: all of the data folder) and check it. Exit code 1 with findings."""
    from titans3.jobs.verify import OfflineVolume, Report, verify_volume

    report = Report()
    with ExitStack() as stack:
        for path in chosen_volumes(paths, data, stack):
            verify_volume(OfflineVolume(path, stack), report)
    return show_report(report, as_json)


@disk.command()
@click.argument("target", required=False, metavar="[BUCKET/KEY]")
@data_option
@click.option("--version-id", default="", metavar="ID", help="With BUCKET/KEY: this version instead of the newest.")
@click.option("--volume", metavar="VOLUME", help="Index or path of a volume; with --segment.")
@click.option("--segment", metavar="NUMBER", help="A segment of the volume: 16 hex digits. Alone, its header and contents are shown.")
@click.option("--offset", type=click.IntRange(0), metavar="BYTE", help="Show the batch, record or extent that begins there.")
@click.option("--save", metavar="FILE", help="Write the body of what is shown into a new file, as it lies there.")
@json_option
def inspect(
    target: str | None,
    data: str | None,
    version_id: str,
    volume: str | None,
    segment: str | None,
    offset: int | None,
    save: str | None,
    as_json: bool,
) -> int:
    """Header fields and checksums of what lies at a place, or of the bytes of BUCKET/KEY. Exit code 1 if a checksum does not match."""
    from titans3.engine.files import OsFiles
    from titans3.errors import ConfigError
    from titans3.jobs.dissect import contents, dissect, dissect_segment, save_body

    files = OsFiles()
    with ExitStack() as stack:
        if (target is None) == (segment is None) or (segment is None) != (volume is None):
            raise ConfigError("give BUCKET/KEY, or --volume and --segment (and --offset)")
        entries = []
        if target is not None:
            if offset is not None:
                raise ConfigError("--offset goes with --segment")
            pieces = _pieces_of(target, version_id, folder_of(data), stack)
        else:
            assert volume is not None
            assert segment is not None
            path = _segment_path(chosen_volumes((volume,), data, stack)[0], segment, stack)
            pieces = [dissect_segment(files, path)] if offset is None else dissect(files, path, offset)
            entries = contents(files, path) if offset is None else []
        saved = None if save is None else save_body(files, pieces, save)
    is_good = all(piece.holds for piece in pieces)
    if as_json:
        show_json({
            "pieces": [
                {"kind": piece.kind, "path": piece.path, "offset": piece.offset, "fields": piece.fields, "holds": piece.holds,
                 "checks": [{"name": c.name, "stored": c.stored, "computed": c.computed, "matches": c.holds} for c in piece.checks]}
                for piece in pieces
            ],
            "contents": entries, "saved_bytes": saved,
        })  # fmt: skip
        return 0 if is_good else 1
    for piece in pieces:
        _show_piece(piece)
    if entries:
        show_table(
            [("offset", "kind", "bytes", "what"), *((e.offset, e.kind, e.length, e.what) for e in entries)],
            left=lambda column: column in (1, 3),
        )
    if saved is not None:
        click.echo(f"{saved} bytes in {save}" + ("" if is_good else ", as they lie there: a checksum does not match"))
    return 0 if is_good else 1


def _show_piece(piece: Piece) -> None:
    import msgspec

    click.echo(f"{piece.kind} at byte {piece.offset} of {piece.path}")
    for name, value in piece.fields.items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        click.echo(f"  {name:<20} {printable(text)}")
    for check in piece.checks:
        verdict = "matches" if check.holds else f"DOES NOT MATCH: {check.computed} is wanted"
        click.echo(f"  {check.name:<20} {check.stored}  {verdict}")


def _pieces_of(target: str, version_id: str, folder: str, stack: ExitStack) -> list[Piece]:
    """What the bytes of a version consist of. Raises ConfigError if it is not known, DiskError."""
    from titans3.cli.ring import find_bucket
    from titans3.engine.files import OsFiles
    from titans3.errors import ConfigError
    from titans3.jobs.dissect import Check, Piece, dissect
    from titans3.jobs.locate import locate_version
    from titans3.ring.ownership import Ownership
    from titans3.ring.placement import ring_hash

    cluster = lock_cluster(folder, stack)
    name, _, text = target.partition("/")
    if not text:
        raise ConfigError(f"{printable(target)!r} is not BUCKET/KEY")
    record, key = find_bucket(folder, cluster, name), os.fsencode(text)
    gid = ring_hash(record.bucket, key, record.shards)
    paths = volume_paths(folder, cluster)
    home = Ownership(cluster.group_volume, (0,) * len(paths)).volume_of(gid)
    version = locate_version(paths, home, gid, record.bucket, key, version_id)
    if version is None:
        raise ConfigError(f"{printable(target)} is not there as of the last checkpoint; after a kill the log may hold more")
    pieces: list[Piece] = []
    for extent in version.extents:
        if not extent.segment:
            missing = [Check("place of the bytes", "none", "a loc row")]
            pieces.append(Piece("missing", paths[extent.volume], 0, {"data id": extent.data_id}, missing))
            continue
        path = f"{paths[extent.volume]}/{'data' if extent.kind == 'extent' else 'log'}/{extent.segment}"
        if not os.path.exists(path):
            path = f"{paths[extent.volume]}/data/{extent.segment}"
        pieces += dissect(OsFiles(), path, extent.offset)
    return pieces


def _segment_path(volume: str, number: str, stack: ExitStack) -> str:
    """File of a segment. Raises ConfigError if there is none of that number, VolumeBusy."""
    from titans3.engine.files import OsFiles
    from titans3.engine.identity import lock_volume
    from titans3.engine.segment import SUFFIX, number_of
    from titans3.errors import ConfigError

    name = number if number.endswith(SUFFIX) else number + SUFFIX
    if number_of(name) is None:
        raise ConfigError(f"{printable(number)} is no segment number: 16 hex digits")
    files = OsFiles()
    if os.access(volume, os.W_OK) and os.path.isdir(volume):
        stack.callback(files.close, lock_volume(files, volume))
    for sub in ("log", "data"):
        if os.path.exists(path := f"{volume}/{sub}/{name}"):
            return path
    raise ConfigError(f"{volume} has no segment {name}")


@disk.command()
@click.argument("paths", nargs=-1, metavar="[VOLUME …]")
@click.option("--out", required=True, metavar="DIR", help="A new folder for what is found.")
@data_option
@json_option
def salvage(paths: tuple[str, ...], out: str, data: str | None, as_json: bool) -> int:
    """Write every object that the segments alone tell of into files, when the metadata is lost. Exit code 1 if something is missing."""
    from titans3.engine.files import OsFiles
    from titans3.engine.identity import lock_volume
    from titans3.errors import ConfigError
    from titans3.jobs.salvage import Salvage

    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise ConfigError(f"{out} is there already; give a new or empty folder")
    work, files = Salvage(), OsFiles()
    with ExitStack() as stack:
        for path in paths or lock_volumes(folder_of(data), stack):
            if not os.path.isdir(os.path.join(path, "log")):
                raise ConfigError(f"{path} is no volume: it has no folder log/")
            if os.access(path, os.W_OK):  # a rescued disk may be mounted read-only, where no server can be
                stack.callback(files.close, lock_volume(files, path))
            work.read(os.path.abspath(path))
        done = work.write(out)
    if as_json:
        show_json({"out": out, **{name: getattr(done, name) for name in done.__struct_fields__}})
        return 1 if done.failed or done.problems else 0
    click.echo(f"{done.objects} objects, {done.bytes} bytes in {out}; manifest.jsonl names their buckets and keys")
    if done.others:
        click.echo(f"{done.others} bodies in {out}/#others: the latest of their keys is damaged, or may never have been committed")
    for name in done.failed:
        click.echo(f"not written: {name}", err=True)
    for problem in done.problems:
        click.echo(problem, err=True)
    return 1 if done.failed or done.problems else 0
