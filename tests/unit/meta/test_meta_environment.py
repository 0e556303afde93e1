"""The LMDB environment of a volume: whose it is, what a checkpoint makes durable in one piece, what a damaged row says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from titans3.errors import DiskError, FormatError
from titans3.limits import MIB
from titans3.meta.environment import META_FORMAT, Checkpoint, Environment, GroupState, Position
from titans3.meta.keys import dedupe_key, loc_key, object_key, seg_key, successor
from titans3.meta.overlay import Overlay
from titans3.meta.rows import RowDamaged, open_rows, open_value, seal_value
from titans3.meta.view import View

CLUSTER, VOLUME = b"c" * 16, b"v" * 16
START = Checkpoint(Position(1, 8192, 3, 7), {5: GroupState(2, 1, 40, 2, 999, b"", 0, "")})


def opened(path: Path, map_bytes: int = 1 << 32) -> Environment:
    return Environment(str(path), cluster=CLUSTER, volume=VOLUME, map_bytes=map_bytes)


def overlay(kv: dict[bytes, bytes | None], loc: dict[bytes, bytes | None] | None = None) -> Overlay:
    made = Overlay()
    for key, value in kv.items():
        made.put(key, value)
    for key, value in (loc or {}).items():
        made.put_loc(key, value)
    return made


def test_a_new_environment_is_empty_and_knows_whose_it_is(tmp_path: Path) -> None:
    env = opened(tmp_path / "meta")
    assert (env.position(), env.groups(), list(env.rows_of(env.loc)), env.commits) == (None, {}, [], 0)
    assert (env.identity.format, env.identity.cluster, env.identity.volume) == (META_FORMAT, CLUSTER, VOLUME)
    assert env.identity.slice_bytes == 511 - 13 - 1, "LMDB's key limit less the prefix and the link's extra byte"
    assert os.stat(tmp_path / "meta").st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "meta" / "data.mdb").st_mode & 0o777 == 0o600
    env.close()


@pytest.mark.parametrize(("cluster", "volume"), [(b"x" * 16, VOLUME), (CLUSTER, b"x" * 16)])
def test_metadata_of_another_volume_is_refused_and_stays_as_it_is(tmp_path: Path, cluster: bytes, volume: bytes) -> None:
    opened(tmp_path).close()
    with pytest.raises(FormatError, match="belongs to volume"):
        Environment(str(tmp_path), cluster=cluster, volume=volume, map_bytes=1 << 32)
    env = opened(tmp_path)  # what was refused is closed again, and nothing was written
    assert env.identity.volume == VOLUME
    env.close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    env = opened(tmp_path)
    newer = b"\x95" + bytes((META_FORMAT + 1,)) + b"\xc4\x00\xc4\x00\xc4\x00\x05"
    with env._env.begin(write=True) as txn:
        txn.put(b"identity", seal_value(b"identity", newer), db=env.meta)
    env.close()
    for _ in range(2):
        with pytest.raises(FormatError, match="newer"):
            opened(tmp_path)


def test_a_checkpoint_holds_rows_groups_and_position_together(tmp_path: Path) -> None:
    env = opened(tmp_path)
    long_key = object_key(5, 1, b"k" * 1024)
    rows: dict[bytes, bytes | None] = {object_key(5, 1, b"a"): b"A", long_key: b"L", dedupe_key(5, 3): b"D"}
    frozen = overlay(rows, {loc_key(b"d" * 16): b"place"})
    frozen.seg[seg_key(9)] = b"segment"
    env.commit(frozen, START)
    later = overlay({object_key(5, 1, b"a"): None, object_key(6, 1, b"b"): b"B"}, {loc_key(b"d" * 16): None})
    env.commit(later, Checkpoint(Position(2, 4096, 9, 7), {6: GroupState(applied=3)}))
    env.close()
    env = opened(tmp_path)
    assert env.position() == Position(2, 4096, 9, 7)
    assert {gid: state.applied for gid, state in env.groups().items()} == {5: 40, 6: 3}, "a group that is not named keeps its state"
    assert env.groups()[5] == START.groups[5]
    view = View(env)
    assert [view.get(key) for key in (*rows, object_key(6, 1, b"b"))] == [None, b"L", b"D", b"B"]
    assert list(env.rows_of(env.loc)) == []
    assert list(env.rows_of(env.seg)) == [(seg_key(9), b"segment")]
    view.close()
    env.close()


def test_a_group_id_that_looks_like_another_row_is_told_apart(tmp_path: Path) -> None:
    env = opened(tmp_path)
    groups = {gid: GroupState(applied=gid % 1000) for gid in (0, 1, 1023, 0x6F73_6974, 0xFFFF_FFFF)}
    env.commit(Overlay(), Checkpoint(Position(1, 2, 3, 4), groups))
    assert env.groups() == groups
    assert env.position() == Position(1, 2, 3, 4)
    env.close()


KILLED = """
import sys
from titans3.meta.environment import Checkpoint, Environment, GroupState, Position
from titans3.meta.keys import object_key
from titans3.meta.overlay import Overlay
env = Environment(sys.argv[1], cluster=b"c" * 16, volume=b"v" * 16, map_bytes=1 << 32)
for turn in (1, 2):
    rows = Overlay()
    for number in range(2000):
        rows.put(object_key(1, 1, b"%06d" % number), b"%d" % turn)
    env.commit(rows, Checkpoint(Position(turn, 0, turn, 1), {1: GroupState(applied=turn)}))
"""


@pytest.mark.parametrize("place", ["checkpoint put:2", "checkpoint commit:2"])
def test_a_checkpoint_that_is_cut_off_never_happened(tmp_path: Path, place: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ, "TITANS3_FAILPOINT": f"{place}=kill"}, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    env = opened(tmp_path)
    assert env.position() == Position(1, 0, 1, 1)
    assert env.groups()[1].applied == 1
    view = View(env)
    found = view.scan(object_key(1, 1, b""), successor(object_key(1, 1, b"")), 5000)
    assert [value for _, value in found] == [b"1"] * 2000
    view.close()
    env.close()


def test_a_full_map_fails_the_checkpoint_as_a_whole(tmp_path: Path) -> None:
    env = opened(tmp_path, map_bytes=MIB)
    env.commit(overlay({object_key(1, 1, b"before"): b"x"}), START)
    much = overlay({object_key(1, 1, b"%06d" % number): os.urandom(1000) for number in range(3000)})
    with pytest.raises(DiskError, match="checkpoint failed"):
        env.commit(much, Checkpoint(Position(9, 9, 9, 9), {5: GroupState(applied=99)}))
    assert (env.position(), env.groups()[5].applied, env.commits) == (START.position, 40, 1)
    env.close()
    env = opened(tmp_path)  # a wider map takes it; the file is the same
    env.commit(much, Checkpoint(Position(9, 9, 9, 9), {}))
    assert env.position() == Position(9, 9, 9, 9)
    assert env.size_bytes() > 3 * MIB
    view = View(env)
    assert view.get(object_key(1, 1, b"before")) == b"x"
    assert view.get(object_key(1, 1, b"002999")) == much.kv[object_key(1, 1, b"002999")]
    view.close()
    env.close()


def test_the_file_grows_with_its_rows_and_not_with_its_map(tmp_path: Path) -> None:
    env = Environment(str(tmp_path), cluster=CLUSTER, volume=VOLUME)  # the map of a real volume: 4 TiB
    empty = env.size_bytes()
    assert os.stat(tmp_path / "data.mdb").st_size < MIB
    env.commit(overlay({object_key(1, 1, b"%06d" % number): bytes(500) for number in range(4000)}), START)
    assert 2 * MIB < env.size_bytes() - empty < 8 * MIB
    env.close()


def damage(env: Environment, db: object, key: bytes) -> None:
    """Flip one bit of a stored value, as a bad page would."""
    with env._env.begin(write=True) as txn:
        stored = bytearray(txn.get(key, db=db))
        stored[0] ^= 1
        txn.put(key, bytes(stored), db=db)


def test_a_damaged_row_is_named_by_every_way_of_reading(tmp_path: Path) -> None:
    env = opened(tmp_path)
    key, long_key = object_key(5, 77, b"holiday/\xc3\xa9t\xc3\xa9.jpg"), object_key(5, 78, b"k" * 1000)
    rows: dict[bytes, bytes | None] = {key: b"row", object_key(5, 77, b"a"): b"fine", long_key: b"long"}
    env.commit(overlay(rows, {loc_key(b"d" * 16): b"place"}), START)
    damage(env, env.kv, key)
    damage(env, env.loc, loc_key(b"d" * 16))
    with env._env.begin() as txn, txn.cursor(env.kv) as cursor:
        terminal = next(name for name, value in cursor if value[:-4] == b"long")
    damage(env, env.kv, terminal)
    view = View(env)
    assert view.get(object_key(5, 77, b"a")) == b"fine", "what is whole is served"
    for read in (lambda: view.get(key), lambda: view.scan(object_key(5, 77, b""), successor(object_key(5, 77, b"")), 10)):
        with pytest.raises(RowDamaged, match=r"group 5, bucket id 77, key b'holiday/\\xc3\\xa9t\\xc3\\xa9\.jpg'") as caught:
            read()
        assert caught.value.key == key
    with pytest.raises(RowDamaged, match=terminal.hex()):
        view.get(long_key)
    for read_loc in (lambda: view.get_loc(loc_key(b"d" * 16)), lambda: list(env.rows_of(env.loc))):
        with pytest.raises(RowDamaged, match=loc_key(b"d" * 16).hex()):
            read_loc()
    view.put(key, b"new")
    assert view.get(key) == b"new", "an overwrite heals it"
    view.close()
    env.close()


@pytest.mark.parametrize("row", [b"position", b"g\x00\x00\x00\x05"])
def test_a_damaged_position_or_group_state_is_never_taken_for_none(tmp_path: Path, row: bytes) -> None:
    env = opened(tmp_path)
    env.commit(Overlay(), START)
    damage(env, env.meta, row)
    with pytest.raises(RowDamaged, match=row.hex()):
        (env.position(), env.groups())
    env.close()


def test_a_damaged_identity_is_refused_again_and_again(tmp_path: Path) -> None:
    env = opened(tmp_path)
    damage(env, env.meta, b"identity")
    env.close()
    for _ in range(2):
        with pytest.raises(RowDamaged, match=b"identity".hex()):
            opened(tmp_path)


def test_every_flipped_bit_of_a_row_is_seen() -> None:
    key = object_key(1, 2, b"k")
    sealed = seal_value(key, b"value")
    assert open_value(key, sealed) == b"value"
    for at in range(len(sealed)):
        for bit in range(8):
            torn = sealed[:at] + bytes((sealed[at] ^ 1 << bit,)) + sealed[at + 1 :]
            with pytest.raises(RowDamaged):
                open_value(key, torn)
    for short in range(len(sealed)):
        with pytest.raises(RowDamaged):
            open_value(key, sealed[:short])
    with pytest.raises(RowDamaged, match="key b'other'"):
        open_value(object_key(1, 2, b"other"), sealed)  # a row at the wrong place is no row


def test_many_rows_are_checked_as_one_is() -> None:
    raw = [(key, seal_value(key, b"value %d" % number)) for number in range(9) for key in (object_key(1, 2, b"%d" % number),)]
    assert open_rows(raw) == [(key, open_value(key, stored)) for key, stored in raw]
    assert open_rows(raw, 13) == [(key[13:], open_value(key, stored)) for key, stored in raw]
    assert open_rows([]) == []
    for place, (key, stored) in enumerate(raw):
        for torn in (stored[:-1] + bytes((stored[-1] ^ 1,)), bytes((stored[0] ^ 1,)) + stored[1:], stored[:-1], stored[:3], b""):
            with pytest.raises(RowDamaged) as caught:
                open_rows([*raw[:place], (key, torn), *raw[place + 1 :]])
            assert caught.value.key == key
