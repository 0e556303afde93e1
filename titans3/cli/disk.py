"""``titans3 tools disk`` and ``titans3 tools meta``: check volumes that no server holds, and read bodies out of damaged ones.

Invariant: a server that runs is refused by name; nothing but the output folder of ``salvage`` is written.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from titans3.jobs.verify import Report

_data = click.option("--data", metavar="PATH", help="Data folder.  [default: as for run]")


@click.group()
def disk() -> None:
    """Segments of volumes."""


@click.group()
def meta() -> None:
    """Rows of the metadata."""


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
