"""What one bucket must hold: keys with their versions, newest first; small, sequential, and the judge of a real server.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/versioning-workflows.html

Invariants
* A state is 0 (never versioned), 1 (enabled) or 2 (suspended). At most one version of a key is ``null``.
* An id that the server has chosen and nobody was told is ``UNKNOWN``; it equals any id that the model does not know otherwise.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

NULL = "null"
UNKNOWN = "?"
Listing = list[tuple[str, str, bool]]


@dataclass
class Version:
    """``body`` is ``None`` for a delete marker."""

    version_id: str
    body: bytes | None
    tags: dict[str, str] = field(default_factory=dict)


class BucketModel:
    """One bucket."""

    def __init__(self, state: int) -> None:
        self.state = state
        self.keys: dict[str, list[Version]] = {}

    def fork(self) -> BucketModel:
        """The same, to be changed apart."""
        return copy.deepcopy(self)

    def put(self, key: str, body: bytes | None, version_id: str) -> None:
        """A new version, or a marker; ``version_id`` is used if the bucket is enabled."""
        versions = self.keys.setdefault(key, [])
        if self.state != 1:
            version_id = NULL
            versions[:] = [version for version in versions if version.version_id != NULL]
        versions.insert(0, Version(version_id, body))

    def delete(self, key: str, version_id: str) -> None:
        """DELETE without a version: of the object, or a marker on top."""
        if self.state:
            self.put(key, None, version_id)
        else:
            self.keys[key] = [version for version in self.keys.get(key, []) if version.version_id != NULL]
        self._tidy(key)

    def delete_version(self, key: str, version_id: str) -> None:
        """DELETE of one version."""
        self.keys[key] = [version for version in self.keys.get(key, []) if version.version_id != version_id]
        self._tidy(key)

    def _tidy(self, key: str) -> None:
        if not self.keys.get(key):
            self.keys.pop(key, None)

    def newest(self, key: str) -> Version | None:
        """What a GET is answered from; ``None`` for no version, a marker has no body."""
        versions = self.keys.get(key)
        return versions[0] if versions else None

    def listing(self) -> Listing:
        """(key, version id, whether it is a marker) as ListObjectVersions tells."""
        return [
            (key, version.version_id, version.body is None) for key in sorted(self.keys, key=str.encode) for version in self.keys[key]
        ]

    def matches(self, found: Listing) -> bool:
        """Whether this is what the server holds; ids that nobody knew are learned from it."""
        mine = self.listing()
        known = {(key, version_id) for key, version_id, _ in mine}
        if [(key, marker) for key, _, marker in mine] != [(key, marker) for key, _, marker in found]:
            return False
        fresh = {key: [version for version in self.keys[key] if version.version_id == UNKNOWN] for key in self.keys}
        for (key, version_id, _), (_, real, _) in zip(mine, found, strict=True):
            if version_id == UNKNOWN:
                if real == NULL or (key, real) in known:
                    return False
                fresh[key].pop(0).version_id = real
            elif version_id != real:
                return False
        return True
