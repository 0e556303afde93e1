"""The root key of a data folder: one file on every volume, ``root-key.json``. Layout: docs/formats/root-key.md.

Invariants
* ``cluster.json`` names the key by its id as soon as it is on every volume; from then on a folder without a readable copy is refused,
  never given a new key: what the old one sealed would be lost without a word.
* A volume whose copy is missing gets one from another; a copy of another key is refused and nothing is changed.
* A passphrase that is given guards every copy from that start on; it is needed at every start after that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from titans3.crypto.kept_key import KeptKey, keep, read_kept, unkeep
from titans3.crypto.root_key import RootKey, new_root_key
from titans3.errors import ConfigError, FormatError
from titans3.supervisor.folder import ClusterFile, DataFolder, write_json

NAME = "root-key.json"
VARIABLE = "TITANS3_KMS_PASSPHRASE"
_FILE_BYTES_MAX = 64 * 1024
_logger = logging.getLogger("titans3.supervisor")


def given_passphrase(environment: Mapping[str, str], file: str) -> str:
    """The passphrase of this start, empty for none. Raises ConfigError."""
    text = environment.get(VARIABLE, "")
    if text and file:
        raise ConfigError(f"{VARIABLE} and kms.passphrase_file are both given: one of them")
    if not file:
        return text
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read(_FILE_BYTES_MAX).strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"kms.passphrase_file: {file} cannot be read: {error}") from None
    if not text:
        raise ConfigError(f"kms.passphrase_file: {file} is empty")
    return text


def open_root_key(folder: DataFolder, passphrase: str) -> RootKey:
    """The folder's root key, made on first use. Raises ConfigError, FormatError."""
    cluster = folder.cluster
    paths = [os.path.join(volume.path, NAME) for volume in folder.volumes]
    found = {path: kept for path in paths if (kept := _read(path)) is not None}
    for path, kept in found.items():
        if kept.cluster != cluster.cluster or (cluster.root_key and kept.id != cluster.root_key):
            raise FormatError(f"{path} is the root key {kept.id} of another data folder; this one has {cluster.root_key or 'none yet'}")
    ids = {kept.id for kept in found.values()}
    if len(ids) > 1:
        raise FormatError(f"the volumes of {folder.path} have different root keys: {', '.join(sorted(ids))}")
    if not found:
        if cluster.root_key:
            raise FormatError(
                f"the root key {cluster.root_key} is on none of the volumes of {folder.path}; bring a copy back: "
                "titanctl kms restore FILE. Without it no secret that was sealed can be read."
            )
        root, kept = new_root_key(), None
    else:
        kept = next(iter(found.values()))
        root = unkeep(kept, passphrase)
    if kept is None or any(copy.is_wrapped is not bool(passphrase) for copy in found.values()):
        kept = keep(root, cluster.cluster, passphrase)
        found = {}
        _logger.log(
            logging.INFO if kept.is_wrapped else logging.DEBUG,
            "root key %s: %s", kept.id, "guarded by a passphrase from now on" if kept.is_wrapped else "made, one copy on every volume",
        )  # fmt: skip
    for path in paths:
        if path not in found:
            write_json(path, kept)
    folder.name_root_key(kept.id)
    return root


def read_any(folder: str, cluster: ClusterFile) -> KeptKey:
    """A copy of the key, as it is kept. Raises FormatError."""
    for path in _paths(folder, cluster):
        kept = _read(path)
        if kept is not None:
            return kept
    raise FormatError(f"no volume of {folder} has a root key")


def restore(folder: str, cluster: ClusterFile, kept: KeptKey) -> int:
    """Put a copy on every volume without one; how many. Raises FormatError for a key of another folder."""
    if kept.cluster != cluster.cluster or (cluster.root_key and kept.id != cluster.root_key):
        raise FormatError(
            f"that is the root key {kept.id} of cluster {kept.cluster}; this folder needs {cluster.root_key} of {cluster.cluster}"
        )
    missing = [path for path in _paths(folder, cluster) if _read(path) is None]
    for path in missing:
        write_json(path, kept)
    return len(missing)


def _paths(folder: str, cluster: ClusterFile) -> list[str]:
    return [os.path.join(folder, row.path, NAME) for row in cluster.volumes]


def _read(path: str) -> KeptKey | None:
    try:
        with open(path, "rb") as file:
            return read_kept(file.read(_FILE_BYTES_MAX))
    except FileNotFoundError:
        return None
    except FormatError as error:
        _logger.error("%s: %s", path, error)
        raise FormatError(f"{path}: {error}; remove it if another volume has a good copy") from error
