"""The lines that a GET and a HEAD answer with: made at once for most versions, the same as one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from titans3.http.reply import header_block
from titans3.model.version import NULL, REDUCED_REDUNDANCY, ROW_FORMAT, STANDARD, Version
from titans3.s3.headers import object_block, object_headers

_headers = st.dictionaries(
    st.sampled_from(("content-type", "cache-control", "content-language")),
    st.sampled_from(("text/plain", "a b", "é")),
    max_size=3,
)


@given(
    headers=_headers,
    metadata=st.dictionaries(st.sampled_from(("one", "two")), st.just("value"), max_size=2),
    storage_class=st.sampled_from((STANDARD, REDUCED_REDUNDANCY)),
    tags=st.dictionaries(st.just("tag"), st.just("value"), max_size=1),
    flags=st.sampled_from((0, NULL)),
    part_count=st.sampled_from((0, 3)),
    shows_version=st.booleans(),
)
def test_lines_made_at_once_are_those_made_one_by_one(
    headers: dict[str, str],
    metadata: dict[str, str],
    storage_class: int,
    tags: dict[str, str],
    flags: int,
    part_count: int,
    shows_version: bool,
) -> None:
    version = Version(
        ROW_FORMAT,
        flags,
        7,
        1_700_000_000_000,
        3,
        bytes(range(16)),
        part_count,
        7,
        storage_class=storage_class,
        headers=headers,
        metadata=metadata,
        tags=tags,
    )
    for _ in range(2):  # the second time from what the first kept
        assert object_block(version, shows_version=shows_version) == header_block(
            object_headers(version, shows_version=shows_version)
        )
