"""``titanctl object cp``: files and objects, one or a tree, between this machine and servers.

Invariants
* What is equal is not copied again: an object and a file of one size, where the file is not newer; two objects of one size and ETag.
* A key never leaves the folder it is copied into: one with ``..`` or an absolute path is refused.
* A tree goes on after one failure, and says at the end how many there were.
"""

from __future__ import annotations

import mimetypes
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import click
import msgspec

from titans3.ctl import listing
from titans3.ctl.address import Address, is_remote, parse
from titans3.ctl.client import RemoteError
from titans3.ctl.session import Session
from titans3.ctl.transfer import Progress, download, open_object, progress, upload
from titans3.errors import ConfigError, DiskError, TitanError

_AT_ONCE = 4
_COPY_BYTES_MAX = 5 * 1024**3


class Done(msgspec.Struct):
    """What a copy did."""

    copied: int = 0
    skipped: int = 0
    bytes: int = 0

    def plain(self) -> dict[str, int]:
        """For JSON."""
        return {"copied": self.copied, "skipped": self.skipped, "bytes": self.bytes}


class _Job(msgspec.Struct):
    """One file or object: ``work`` copies it and gives its bytes. ``size`` is 0 where only ``work`` learns it, and says what to expect."""

    name: str
    size: int
    work: Callable[[Progress], int]


def copy(session: Session, source: str, target: str, *, recursive: bool, overwrite: bool) -> Done:
    """Raises ConfigError, RemoteError; DiskError if some of a tree failed."""
    up, down = not is_remote(source, session), not is_remote(target, session)
    if up and down:
        raise ConfigError("neither side is remote: write s3://BUCKET/KEY or ALIAS/BUCKET/KEY")
    done = Done()
    if up:
        jobs = _up(source, parse(target, session), done, recursive=recursive, overwrite=overwrite)
    elif down:
        jobs = _down(parse(source, session), target, done, recursive=recursive, overwrite=overwrite)
    else:
        jobs = _across(parse(source, session), parse(target, session), done, recursive=recursive, overwrite=overwrite)
    failures: list[str] = []
    with progress(0, source, shown=not session.as_json) as tick, ThreadPoolExecutor(_AT_ONCE) as pool:

        def run(job: _Job) -> int | None:
            try:
                return job.work(tick)
            except (TitanError, OSError) as error:
                if not recursive:
                    raise
                failures.append(f"{job.name}: {error}")
                return None

        waiting = []
        for job in jobs:
            tick.expect(job.size)
            waiting.append(pool.submit(run, job))
            if len(waiting) >= 4 * _AT_ONCE:
                _count(done, waiting.pop(0).result())
        for one in waiting:
            _count(done, one.result())
    if failures:
        for failure in failures[:20]:
            click.echo(f"titanctl: {failure}", err=True)
        raise DiskError(f"{len(failures)} failed, {done.copied} were copied; say it again to go on")
    return done


def _count(done: Done, size: int | None) -> None:
    if size is not None:
        done.copied += 1
        done.bytes += size


# up --------------------------------------------------------------------------------------------------------------------


def _up(source: str, target: Address, done: Done, *, recursive: bool, overwrite: bool) -> Iterator[_Job]:
    if not target.bucket:
        raise ConfigError("the target names no bucket")
    if os.path.isdir(source):
        if not recursive:
            raise ConfigError(f"{source} is a folder: -r copies it")
        known = {} if overwrite else {item.key: item for item in listing.objects(target, recursive=True)}
        for folder, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                key = _joined(target.key, os.fsencode(os.path.relpath(path, source)))
                if not os.path.isfile(path):
                    continue
                status = os.stat(path)
                there = known.get(key)
                if there is not None and there.size == status.st_size and _seconds(there.modified) >= status.st_mtime:
                    done.skipped += 1
                    continue
                yield _Job(path, status.st_size, _upload_job(path, target.with_key(key)))
        return
    key = (
        _joined(target.key, os.fsencode(os.path.basename(source)))
        if not target.key or target.key.endswith(b"/")
        else target.key
    )
    yield _Job(source, os.stat(source).st_size, _upload_job(source, target.with_key(key)))


def _upload_job(path: str, address: Address) -> Callable[[Progress], int]:
    def work(tick: Progress) -> int:
        kind = mimetypes.guess_type(path)[0]
        with open(path, "rb") as file:
            return upload(file, address, {"content-type": kind} if kind else {}, tick)

    return work


# down ------------------------------------------------------------------------------------------------------------------


def _down(source: Address, target: str, done: Done, *, recursive: bool, overwrite: bool) -> Iterator[_Job]:
    if not recursive:
        if not source.key:
            raise ConfigError(f"{source.shown} is a bucket: -r copies it")
        name = os.path.basename(os.fsdecode(source.key))
        path = os.path.join(target, name) if os.path.isdir(target) or target.endswith("/") else target
        yield _Job(path, 0, lambda tick: download(source, path, tick))
        return
    for item in listing.objects(source, recursive=True):
        relative = os.fsdecode(_relative(item.key, source.key))
        if relative.endswith("/") or not relative:
            continue  # a marker of a folder
        if relative.startswith("/") or ".." in relative.split("/") or "\0" in relative:
            raise ConfigError(
                f"the key {os.fsdecode(item.key)!r} would leave {target}; copy it by itself under another name"
            )
        path = os.path.join(target, relative)
        if not overwrite and os.path.isfile(path):
            status = os.stat(path)
            if status.st_size == item.size and status.st_mtime >= _seconds(item.modified):
                done.skipped += 1
                continue
        yield _Job(path, item.size, _download_job(source.with_key(item.key), path))


def _download_job(address: Address, path: str) -> Callable[[Progress], int]:
    return lambda tick: download(address, path, tick, expected=True)


# across ----------------------------------------------------------------------------------------------------------------


def _across(source: Address, target: Address, done: Done, *, recursive: bool, overwrite: bool) -> Iterator[_Job]:
    if not target.bucket:
        raise ConfigError("the target names no bucket")
    if not recursive:
        if not source.key:
            raise ConfigError(f"{source.shown} is a bucket: -r copies it")
        name = source.key.rpartition(b"/")[2]
        key = _joined(target.key, name) if not target.key or target.key.endswith(b"/") else target.key
        yield _Job(source.shown, 0, _across_job(source, target.with_key(key)))
        return
    known = {} if overwrite else {item.key: item for item in listing.objects(target, recursive=True)}
    for item in listing.objects(source, recursive=True):
        key = _joined(target.key, _relative(item.key, source.key))
        there = known.get(key)
        if there is not None and (there.size, there.etag) == (item.size, item.etag):
            done.skipped += 1
            continue
        yield _Job(os.fsdecode(item.key), item.size, _across_job(source.with_key(item.key), target.with_key(key), expected=True))


def _across_job(source: Address, target: Address, *, expected: bool = False) -> Callable[[Progress], int]:
    def work(tick: Progress) -> int:
        if source.client is target.client:
            size = int(source.client.s3("HEAD", source.bucket, source.key).headers["content-length"])
            if not expected:
                tick.expect(size)
            if size <= _COPY_BYTES_MAX:
                headers = {"x-amz-copy-source": f"/{source.bucket}/{quote(source.key, safe='/-._~')}"}
                answer = target.client.s3("PUT", target.bucket, target.key, headers=headers).read()
                if b"<Error>" in answer:
                    raise RemoteError(500, "InternalError", "the copy failed on the way", "")
                tick(size)
                return size
        reply = open_object(source)
        if not expected and source.client is not target.client:
            tick.expect(int(reply.headers.get("content-length", 0)))
        kept = {
            name: value
            for name, value in reply.headers.items()
            if name.startswith("x-amz-meta-")
            or name in ("content-type", "cache-control", "content-disposition", "content-encoding")
        }
        return upload(reply, target, kept, tick)  # type: ignore[arg-type]

    return work


def _joined(prefix: bytes, name: bytes) -> bytes:
    return prefix + b"/" + name if prefix and not prefix.endswith(b"/") else prefix + name


def _relative(key: bytes, prefix: bytes) -> bytes:
    """What follows a prefix; of a prefix without a slash at its end its last part stays away only if it is a whole one."""
    if not prefix or prefix.endswith(b"/"):
        return key[len(prefix) :]
    return key[len(prefix) + 1 :] if key.startswith(prefix + b"/") else key[prefix.rfind(b"/") + 1 :]


def _seconds(text: str) -> float:
    """Seconds since 1970 of a listing's or a header's time."""
    if "," in text:
        return parsedate_to_datetime(text).timestamp()
    import calendar

    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(text[19:].rstrip("Z") or 0)
