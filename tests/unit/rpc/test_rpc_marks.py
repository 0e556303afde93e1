"""Marks: what is not in the B-tree is marked in one of two generations, and nobody reads by marks that nobody keeps."""

from __future__ import annotations

import pytest

from titans3.meta.keys import object_key
from titans3.rpc.marks import Marks, VolumeMarks

KEY = object_key(7, 3, b"key")
OTHER = object_key(8, 3, b"another key")


@pytest.fixture
def both() -> tuple[VolumeMarks, VolumeMarks]:
    """The owner's and a sibling's look at the second volume of two."""
    made = Marks.make(2)
    return made.of(1), Marks(made.fd, 2).of(1)


def test_nobody_reads_by_marks_before_the_owner_is_ready(both: tuple[VolumeMarks, VolumeMarks]) -> None:
    owner, sibling = both
    assert not sibling.is_stored(KEY)
    owner.opening()
    assert not sibling.is_stored(KEY)
    assert not sibling.are_stored([7])
    owner.ready()
    assert sibling.is_stored(KEY)
    assert sibling.are_stored([7])


@pytest.mark.parametrize("generation", [0, 1])
def test_a_mark_is_seen_until_its_generation_is_cleared(both: tuple[VolumeMarks, VolumeMarks], generation: int) -> None:
    owner, sibling = both
    owner.opening()
    owner.ready()
    owner.generations[generation].mark(KEY)
    assert not sibling.is_stored(KEY)
    assert sibling.is_stored(OTHER)
    assert not sibling.are_stored([8, 7])
    assert sibling.are_stored([8, 9])
    owner.generations[1 - generation].clear()
    assert not sibling.is_stored(KEY)
    owner.generations[generation].clear()
    assert sibling.is_stored(KEY)


def test_what_an_owner_left_counts_for_nobody_and_its_successor_begins_without_it(both: tuple[VolumeMarks, VolumeMarks]) -> None:
    owner, sibling = both
    owner.opening()
    owner.ready()
    owner.generations[0].mark(KEY)
    sibling.withdraw()  # as the supervisor does when the owner's process is gone
    assert not sibling.is_stored(OTHER)
    successor = owner
    successor.opening()
    assert not sibling.is_stored(OTHER)
    successor.ready()
    assert sibling.is_stored(OTHER)
    assert sibling.is_stored(KEY)


def test_an_end_that_is_noticed_late_is_taken_back_by_the_owner(both: tuple[VolumeMarks, VolumeMarks]) -> None:
    owner, sibling = both
    owner.opening()
    owner.ready()
    sibling.withdraw()
    owner.assure()
    assert sibling.is_stored(KEY)
    owner.closing()
    owner.assure()
    assert not sibling.is_stored(KEY)


def test_volumes_do_not_share_marks() -> None:
    marks = Marks.make(2)
    for volume in range(2):
        marks.of(volume).opening()
        marks.of(volume).ready()
    marks.of(0).generations[0].mark(KEY)
    assert not marks.of(0).is_stored(KEY)
    assert marks.of(1).is_stored(KEY)
