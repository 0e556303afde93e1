"""The root key of a data folder: made once, on every volume, guarded by a passphrase, never replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from titans3.clock import SystemClock
from titans3.crypto.kept_key import keep, read_kept, unkeep
from titans3.crypto.root_key import RootKey, SealBroken, new_root_key
from titans3.errors import ConfigError, FormatError
from titans3.supervisor.folder import DataFolder, open_folder, read_cluster
from titans3.supervisor.root_key import NAME, given_passphrase, open_root_key, read_any, restore


def opened(path: Path) -> DataFolder:
    return open_folder(str(path), SystemClock(), 3)


def copies(folder: DataFolder) -> list[Path]:
    return [Path(volume.path, NAME) for volume in folder.volumes]


def test_made_once_and_on_every_volume(tmp_path: Path) -> None:
    folder = opened(tmp_path / "data")
    root = open_root_key(folder, "")
    assert all(copy.stat().st_mode & 0o777 == 0o600 for copy in copies(folder))
    assert read_cluster(folder.path).root_key == root.id.hex()
    copies(folder)[1].unlink()
    assert open_root_key(folder, "").raw == root.raw
    assert len({copy.read_bytes() for copy in copies(folder)}) == 1
    folder.release()


def test_a_folder_never_gets_a_second_key(tmp_path: Path) -> None:
    folder = opened(tmp_path / "data")
    root = open_root_key(folder, "")
    kept = read_any(folder.path, folder.cluster)
    for copy in copies(folder):
        copy.unlink()
    with pytest.raises(FormatError, match="is on none of the volumes"):
        open_root_key(folder, "")
    with pytest.raises(FormatError, match="this folder needs"):
        restore(folder.path, folder.cluster, keep(new_root_key(), folder.cluster.cluster))
    assert restore(folder.path, folder.cluster, kept) == 3
    assert open_root_key(folder, "").raw == root.raw
    folder.release()


def test_a_copy_of_another_key_is_refused(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "one"), opened(tmp_path / "other")
    open_root_key(one, "")
    open_root_key(other, "")
    copies(one)[0].write_bytes(copies(other)[0].read_bytes())
    with pytest.raises(FormatError, match="of another data folder"):
        open_root_key(one, "")
    copies(one)[0].write_bytes(b"{")
    with pytest.raises(FormatError, match="remove it if another volume has a good copy"):
        open_root_key(one, "")
    one.release()
    other.release()


def test_a_passphrase_guards_every_copy_from_then_on(tmp_path: Path) -> None:
    folder = opened(tmp_path / "data")
    root = open_root_key(folder, "")
    assert open_root_key(folder, "correct horse").raw == root.raw
    for copy in copies(folder):
        assert root.raw not in copy.read_bytes()
        assert read_kept(copy.read_bytes()).is_wrapped
    with pytest.raises(ConfigError, match="is guarded by a passphrase"):
        open_root_key(folder, "")
    with pytest.raises(ConfigError, match="does not open"):
        open_root_key(folder, "another horse")
    assert open_root_key(folder, "correct horse").raw == root.raw
    copies(folder)[2].write_bytes(b"")
    os.unlink(copies(folder)[2])
    assert open_root_key(folder, "correct horse").raw == root.raw
    folder.release()


def test_where_a_passphrase_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("from a file\n")
    assert given_passphrase({}, "") == ""
    assert given_passphrase({"TITANS3_KMS_PASSPHRASE": "word"}, "") == "word"
    assert given_passphrase({}, str(file)) == "from a file"
    with pytest.raises(ConfigError, match="both given"):
        given_passphrase({"TITANS3_KMS_PASSPHRASE": "word"}, str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        given_passphrase({}, str(tmp_path / "absent"))
    file.write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        given_passphrase({}, str(file))
    with pytest.raises(ConfigError, match="at least 8 characters"):
        keep(new_root_key(), "c", "short")


def test_what_is_sealed_opens_for_its_purpose_and_context_alone() -> None:
    root = new_root_key()
    sealed = root.seal("credentials", b"AK", b"secret")
    assert root.open("credentials", b"AK", sealed) == b"secret"
    assert root.seal("credentials", b"AK", b"secret") != sealed
    changed = bytes([*sealed[:-1], sealed[-1] ^ 1])
    for purpose, context, text in (
        ("sessions", b"AK", sealed), ("credentials", b"AL", sealed), ("credentials", b"AK", changed), ("credentials", b"AK", sealed[:20]),
        ("credentials", b"AK", b""), ("credentials", b"AK", new_root_key().seal("credentials", b"AK", b"secret")),
    ):  # fmt: skip
        with pytest.raises(SealBroken):
            root.open(purpose, context, text)
    assert root.raw.hex() not in repr(root)


def test_a_damaged_file_is_told_from_a_wrong_passphrase() -> None:
    import msgspec

    root = RootKey(bytes(range(32)))
    kept = keep(root, "c")
    with pytest.raises(FormatError, match="does not have the id"):
        unkeep(msgspec.structs.replace(kept, key=bytes(32)))
    with pytest.raises(FormatError, match="has format 2"):
        unkeep(msgspec.structs.replace(kept, format=2))
    with pytest.raises(FormatError, match="not known to this build"):
        unkeep(msgspec.structs.replace(kept, protection="vault"))
    wrapped = keep(root, "c", "correct horse")
    assert wrapped.argon2 is not None
    with pytest.raises(FormatError, match="out of range"):
        unkeep(msgspec.structs.replace(wrapped, argon2=msgspec.structs.replace(wrapped.argon2, memory_kib=1 << 40)), "correct horse")
