"""The data folder: what is refused and left as it was, what an interrupted first start leaves, who has it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from titans3.clock import SystemClock
from titans3.engine.files import OsFiles
from titans3.engine.identity import format_volume
from titans3.errors import ConfigError, FormatError, TitanError
from titans3.limits import GROUPS
from titans3.supervisor.folder import (
    DataFolder,
    given_credentials,
    open_folder,
    read_cluster,
    read_credentials,
    reset_credentials,
    root_credentials,
)
from titans3.supervisor.lock import holder_of, is_held, lock_folder, wait_volumes


def opened(path: Path, cpus: int = 3) -> DataFolder:
    return open_folder(str(path), SystemClock(), cpus)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of three volumes, not in use."""
    opened(tmp_path / "data").close()
    return tmp_path / "data"


def contents(path: Path) -> dict[str, tuple[int, str]]:
    """Every name with its mode, and what is in it."""
    found = {}
    for name in sorted(path.rglob("*")):
        digest = hashlib.sha256(name.read_bytes()).hexdigest() if name.is_file() else ""
        found[str(name.relative_to(path))] = (name.stat().st_mode, digest)
    return found


def change(name: Path, **values: object) -> None:
    name.write_text(json.dumps(json.loads(name.read_text()) | values))


def test_a_new_folder_is_closed_to_others_and_its_tables_are_whole(data: Path) -> None:
    modes = {mode & 0o777 for name, (mode, _) in contents(data.parent).items() if name.startswith("data")}
    assert modes == {0o700, 0o600}
    cluster = read_cluster(str(data))
    assert [row.path for row in cluster.volumes] == ["volumes/0000", "volumes/0001", "volumes/0002"]
    assert cluster.group_volume == tuple(group % 3 for group in range(GROUPS))


@pytest.mark.parametrize(("cpus", "volumes"), [(1, 2), (2, 2), (7, 7), (200, 16)])
def test_the_number_of_volumes_is_chosen_once(tmp_path: Path, cpus: int, volumes: int) -> None:
    opened(tmp_path / "data", cpus).close()
    again = opened(tmp_path / "data", 5)
    assert len(again.volumes) == volumes and not again.fresh
    again.close()


Damage = Callable[[Path], object]
REFUSALS: list[tuple[str, Damage, type[TitanError], str]] = [
    ("newer table", lambda p: change(p / "cluster.json", format=2), FormatError, "newer version: format 2, this build reads up to 1"),
    ("odd format", lambda p: change(p / "cluster.json", format="x"), FormatError, "newer version: format x"),
    ("torn table", lambda p: (p / "cluster.json").write_text("{"), FormatError, "cluster.json is not readable"),
    ("empty table", lambda p: (p / "cluster.json").write_text(""), FormatError, "cluster.json is not readable"),
    ("table not whole", lambda p: change(p / "cluster.json", group_volume=[0]), FormatError, "not whole"),
    ("unknown volume", lambda p: change(p / "cluster.json", group_volume=[3] * GROUPS), FormatError, "names a volume that"),
    ("lost table", lambda p: (p / "cluster.json").unlink(), FormatError, "holds volumes (0000, 0001, 0002) but cluster.json is missing"),
    ("newer volume", lambda p: change(p / "volumes/0001/volume.json", format=2), FormatError, "volumes/0001 has format 2, which is newer"),
    ("foreign cluster", lambda p: change(p / "volumes/0001/volume.json", cluster="0" * 32), FormatError, "volumes/0001 is another volume"),
    ("foreign uuid", lambda p: change(p / "volumes/0002/volume.json", uuid="0" * 32), FormatError, "volumes/0002 is another volume"),
    ("volumes changed places", lambda p: swap(p / "volumes/0000", p / "volumes/0001"), FormatError, "volumes/0000 is another volume"),
    ("missing volume", lambda p: (p / "volumes/0002").rename(p / "elsewhere"), FormatError, "volume 2 of 3 is missing: expected at"),
    ("empty mount point", lambda p: unmount(p / "volumes/0000"), FormatError, "volume 0 of 3 is missing"),
    ("no keys", lambda p: (p / "credentials.json").unlink(), FormatError, "credentials reset --data"),
    ("torn keys", lambda p: (p / "credentials.json").write_text("{"), FormatError, "credentials.json is not readable"),
]  # fmt: skip


def unmount(volume: Path) -> None:
    volume.rename(volume.parent.with_name("elsewhere"))
    volume.mkdir()


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_name("t"))
    other.rename(one)
    one.with_name("t").rename(other)


@pytest.mark.parametrize(("damage", "error", "word"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_is_wrong_is_named_and_nothing_is_changed(data: Path, damage: Damage, error: type[TitanError], word: str) -> None:
    damage(data)
    before = contents(data)
    with pytest.raises(error) as caught, contextlib.ExitStack() as ends:
        folder = opened(data)
        ends.callback(folder.release)
        root_credentials(folder, {})
    assert word in str(caught.value) and str(data) in str(caught.value)
    assert contents(data) == before
    os.close(lock_folder(str(data)))  # and nobody has it


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"not empty and not a TitanS3 data folder \(it holds thesis\.tex\)"):
        opened(tmp_path)
    assert list(contents(tmp_path)) == ["thesis.tex"]


def test_a_folder_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        opened(tmp_path / "file" / "data")


# interrupted ---------------------------------------------------------------------------------------------------------


def interrupted(data: Path, volumes: int, *, keys: bool = False) -> None:
    """As a kill in the middle of the first start leaves it: the plan, some volumes, perhaps the keys."""
    (data / "cluster.json").rename(data / "cluster.json.new")
    for index in range(volumes, 3):
        (data / f"volumes/{index:04d}/volume.json").unlink()
    if volumes == 0:
        for name in sorted((data / "volumes").rglob("*"), reverse=True):
            name.rmdir() if name.is_dir() else name.unlink()
        (data / "volumes").rmdir()
    if not keys:
        (data / "credentials.json").unlink()


@pytest.mark.parametrize(("volumes", "keys"), [(0, False), (1, False), (2, False), (3, False), (3, True)])
def test_the_next_start_finishes_an_interrupted_first_one(data: Path, volumes: int, keys: bool) -> None:
    planned = read_cluster(str(data))
    made = read_credentials(str(data))
    interrupted(data, volumes, keys=keys)
    (data / "cluster.json.new.new").write_text('{"form')  # a plan that was being written when another was there
    folder = opened(data, 9)  # whatever the machine looks like now
    assert folder.fresh and folder.cluster == planned
    credentials, given = root_credentials(folder, {})
    assert not given and (credentials == made) is keys
    folder.close()
    opened(data).close()


def test_a_plan_that_was_never_whole_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cluster.json.new.new").write_text("{")
    opened(tmp_path / "data").close()
    assert len(read_cluster(str(tmp_path / "data")).volumes) == 3


def test_a_plan_of_a_newer_version_is_not_carried_out(data: Path) -> None:
    interrupted(data, 1)
    change(data / "cluster.json.new", format=9)
    with pytest.raises(FormatError, match="newer version: format 9"):
        opened(data)


def test_a_plan_meets_a_foreign_volume(data: Path) -> None:
    interrupted(data, 2)
    format_volume(OsFiles(), str(data / "volumes/0002"), cluster="1" * 32, uuid="2" * 32, index=2, created_ms=1)
    with pytest.raises(FormatError, match="another volume"):
        opened(data)
    assert not (data / "cluster.json").exists()


# who has it ----------------------------------------------------------------------------------------------------------


def test_one_folder_has_one_server(data: Path) -> None:
    folder = opened(data)
    folder.begin()
    with pytest.raises(ConfigError, match=f"in use by another server \\(process {os.getpid()}\\)"):
        opened(data)
    with pytest.raises(ConfigError, match="in use"):
        reset_credentials(str(data))
    folder.close()
    again = opened(data)
    assert not again.was_unclean
    again.begin()
    again.release()  # as after a kill
    last = opened(data)
    assert last.was_unclean
    last.close()


def test_a_volume_that_another_process_has_is_refused_with_its_number(data: Path) -> None:
    name = data / "volumes" / "0001" / "lock"
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        assert is_held(str(name)) and holder_of(str(name)) == f"process {holder.pid}"
        before = contents(data)
        with pytest.raises(ConfigError, match=f"volume 1 at {data}/volumes/0001 is in use by process {holder.pid}"):
            opened(data)
        assert contents(data) == before
        holder.communicate()
    assert not is_held(str(name))
    opened(data).close()


def test_volumes_are_waited_for_when_the_last_server_was_killed(data: Path) -> None:
    folder = opened(data)
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.readline()"
    name = str(data / "volumes" / "0000" / "lock")
    with subprocess.Popen([sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None and orphan.stdout.readline()
        with pytest.raises(ConfigError, match="volume 0"):
            wait_volumes(folder.volumes, 0.15)
        orphan.communicate(b"\n")
        wait_volumes(folder.volumes, 5)
    folder.close()


def test_a_lock_of_the_folder_is_not_taken_by_looking(data: Path) -> None:
    for place in opened(data).volumes:
        assert not is_held(os.path.join(place.path, "lock"))
        with open(os.path.join(place.path, "lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# the root's keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "secret", "word"),
    [
        ("root", "", "TITANS3_ROOT_SECRET_KEY is missing"), ("", "long enough", "TITANS3_ROOT_ACCESS_KEY is missing"),
        ("ab", "long enough", "at least 3"), ("a/b", "long enough", "without '/'"), ("a b", "long enough", "spaces"),
        ("röot", "long enough", "ASCII"), ("root", "short", "at least 8"),
    ],
)  # fmt: skip
def test_keys_of_the_environment_are_checked(access: str, secret: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        given_credentials({"TITANS3_ROOT_ACCESS_KEY": access, "TITANS3_ROOT_SECRET_KEY": secret})
    assert not secret or secret not in str(caught.value)


def test_keys_of_the_environment_are_in_no_file(tmp_path: Path) -> None:
    given = {"TITANS3_ROOT_ACCESS_KEY": "operator", "TITANS3_ROOT_SECRET_KEY": "a secret of theirs"}
    folder = open_folder(str(tmp_path / "data"), SystemClock(), 2, make_credentials=False)
    credentials, is_given = root_credentials(folder, given)
    assert is_given and (credentials.access_key, credentials.secret_key) == ("operator", "a secret of theirs")
    assert not (tmp_path / "data" / "credentials.json").exists()
    folder.close()


def test_a_reset_makes_other_keys_and_keeps_the_mark_of_a_kill(data: Path) -> None:
    before = read_credentials(str(data))
    folder = opened(data)
    folder.begin()
    folder.release()
    after = reset_credentials(str(data))
    assert before.access_key != after.access_key and before.secret_key != after.secret_key
    assert read_credentials(str(data)) == after
    assert (data / "credentials.json").stat().st_mode & 0o777 == 0o600
    again = opened(data)
    assert again.was_unclean
    again.close()
