"""Digests in lanes are hashlib's, however bodies are cut and whoever they share a batch with."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titans3.lanes import digests, native
from titans3.lanes.digests import LANES, SHA256_BYTES_MIN, Lanes, Md5

BEST = native.instructions()
WIDTHS = [width for width in (native.AVX512, native.AVX2) if width in BEST]
HERE = [frozenset((width, *more)) for width in WIDTHS for more in ((), (native.SHA,)) if BEST.issuperset(more)]
pytestmark = pytest.mark.skipif(not HERE, reason="this processor has neither AVX-512 nor AVX2")


@pytest.fixture(scope="module", params=HERE, ids=lambda names: "+".join(sorted(names)))
def lanes(request: pytest.FixtureRequest) -> Lanes:
    made = digests.load(request.param)
    assert made is not None
    return made


def md5_of(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_bodies_in_any_pieces_in_any_company(lanes: Lanes, data: st.DataObject) -> None:
    """Up to forty bodies of any length, moved on by batches of any of them, are what hashlib says at any time."""
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    bodies: list[tuple[Md5, bytearray]] = [(lanes.md5(), bytearray()) for _ in range(data.draw(st.integers(1, 40)))]
    for _ in range(data.draw(st.integers(1, 12))):
        chosen = chance.sample(bodies, chance.randint(1, min(lanes.most, len(bodies))))
        batch = []
        for md5, so_far in chosen:
            piece = chance.randbytes(chance.choice((0, 1, 55, 56, 63, 64, 65, 119, 128, chance.randint(0, 5000))))
            so_far += piece
            batch.append((md5, memoryview(piece) if chance.random() < 0.3 else memoryview(bytearray(piece))))
        lanes.update_all(batch)
        md5, so_far = chance.choice(bodies)
        assert lanes.digest(md5) == md5_of(so_far)
    for md5, so_far in bodies:
        assert lanes.digest(md5) == md5_of(so_far)
        assert md5.length == len(so_far)


@pytest.mark.parametrize("count", range(1, LANES + 1))
def test_any_number_side_by_side(lanes: Lanes, count: int) -> None:
    count = min(count, lanes.most)
    messages = [bytearray(random.Random(number).randbytes(100_000 + 777 * number)) for number in range(count)]
    bodies = [lanes.md5() for _ in messages]
    lanes.update_all([(md5, memoryview(message)) for md5, message in zip(bodies, messages, strict=True)])
    assert [lanes.digest(md5) for md5 in bodies] == [md5_of(message) for message in messages]


@given(st.integers(0, 40), st.integers(SHA256_BYTES_MIN - 70, SHA256_BYTES_MIN + 200), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_sha256_of_any_number_of_messages(lanes: Lanes, count: int, size: int, begin: int, writable: bool) -> None:
    data = random.Random(size).randbytes(begin + count * size)
    view = memoryview(bytearray(data) if writable else data)[begin:]
    expected = [hashlib.sha256(data[at : at + size]).digest() for at in range(begin, len(data), size)]
    assert lanes.sha256_each(view, size) == expected


def test_a_length_of_more_bits_than_a_word(lanes: Lanes) -> None:
    """536,870,912 bytes are 2**32 bits."""
    piece = memoryview(bytearray(1 << 20))
    md5, expected = lanes.md5(), hashlib.md5(usedforsecurity=False)
    for _ in range(513):
        lanes.update_all([(md5, piece)])
        expected.update(piece)
    assert lanes.digest(md5) == expected.digest()


def test_code_is_never_writable_and_its_file_is_sealed(lanes: Lanes) -> None:
    del lanes
    areas = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:titans3-lanes" in line]
    assert len(areas) >= 2
    assert all(line.split()[1] == "r-xp" for line in areas)


@pytest.mark.parametrize("instructions", HERE, ids=lambda names: "+".join(sorted(names)))
def test_a_wrong_kernel_is_found_before_it_is_used(monkeypatch: pytest.MonkeyPatch, instructions: frozenset[str]) -> None:
    """One bit of one constant: nothing is handed out."""
    from titans3.lanes import kernels

    constants = list(kernels.MD5_CONSTANTS)
    constants[40] ^= 1
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "MD5_CONSTANTS", tuple(constants))
        with pytest.raises(ArithmeticError, match="MD5"):
            digests.load(instructions)
    if instructions == {native.AVX2}:
        return  # it has no SHA-256
    words = list(kernels.SHA256_CONSTANTS)
    words[3] ^= 1 << 31
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "SHA256_CONSTANTS", tuple(words))
        with pytest.raises(ArithmeticError, match="SHA-256"):
            digests.load(instructions)


_DENIED = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
from titans3.lanes.digests import load
sys.exit(0 if load() is not None else 1)
"""


def test_it_loads_where_memory_may_not_be_written_and_run() -> None:
    done = subprocess.run([sys.executable, "-c", _DENIED], capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr


def test_nobody_who_does_not_load_it_imports_the_assembler() -> None:
    code = "import sys, titans3.worker.node; sys.exit('iced_x86' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
