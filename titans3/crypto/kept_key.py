"""The root key as it is kept: in the clear, or wrapped by a passphrase. The content of ``root-key.json``; layout: docs/formats/root-key.md.

Invariants
* A wrapped key opens with its passphrase alone; the parameters of Argon2id (RFC 9106) stand beside it, so that they may rise later.
* Whatever is read is checked against the key's id before anybody uses it.
"""

from __future__ import annotations

import os

import msgspec
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from titans3.crypto.root_key import KEY_BYTES, RootKey
from titans3.errors import ConfigError, FormatError

FORMAT = 1
CLEAR, PASSPHRASE = "none", "passphrase"
PASSPHRASE_CHARS_MIN = 8
_TIME, _MEMORY_KIB, _LANES = 3, 64 * 1024, 4  # the second recommended option of RFC 9106
_TIME_MAX, _MEMORY_KIB_MAX, _LANES_MAX = 64, 4 * 1024 * 1024, 64
_SALT_BYTES, _NONCE_BYTES = 16, 12


class Argon2(msgspec.Struct, frozen=True):
    """Parameters of Argon2id; ``memory_kib`` in KiB."""

    salt: bytes
    time: int = _TIME
    memory_kib: int = _MEMORY_KIB
    lanes: int = _LANES


class KeptKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``protection``: ``none`` (``key`` is the key) or ``passphrase`` (``key`` is nonce, ciphertext and tag). Bytes are base64 in JSON."""

    format: int
    cluster: str
    id: str
    protection: str
    key: bytes
    argon2: Argon2 | None = None

    @property
    def is_wrapped(self) -> bool:
        """Whether a passphrase guards it."""
        return self.protection == PASSPHRASE


def keep(root: RootKey, cluster: str, passphrase: str = "") -> KeptKey:
    """The key for a file. Raises ConfigError for a passphrase that is too short."""
    if not passphrase:
        return KeptKey(FORMAT, cluster, root.id.hex(), CLEAR, root.raw)
    if len(passphrase) < PASSPHRASE_CHARS_MIN:
        raise ConfigError(f"a passphrase has at least {PASSPHRASE_CHARS_MIN} characters")
    argon2, nonce = Argon2(os.urandom(_SALT_BYTES)), os.urandom(_NONCE_BYTES)
    wrapped = AESGCM(_derive(passphrase, argon2)).encrypt(nonce, root.raw, _context(cluster))
    return KeptKey(FORMAT, cluster, root.id.hex(), PASSPHRASE, nonce + wrapped, argon2)


def unkeep(kept: KeptKey, passphrase: str = "") -> RootKey:
    """The key of a file. Raises ConfigError (a passphrase is missing or wrong), FormatError."""
    if kept.format != FORMAT:
        raise FormatError(f"the root key has format {kept.format}, this build reads {FORMAT}")
    if kept.protection == CLEAR:
        raw = kept.key
    elif kept.protection == PASSPHRASE and kept.argon2 is not None:
        if not passphrase:
            raise ConfigError(
                "the root key is guarded by a passphrase: give it as TITANS3_KMS_PASSPHRASE, or its file as kms.passphrase_file"
            )
        raw = _unwrap(kept, passphrase, kept.argon2)
    else:
        raise FormatError(f"the root key's protection {kept.protection[:40]!r} is not known to this build")
    if len(raw) != KEY_BYTES or RootKey(raw).id.hex() != kept.id:
        raise FormatError("the root key's file is damaged: the key does not have the id beside it")
    return RootKey(raw)


def _unwrap(kept: KeptKey, passphrase: str, argon2: Argon2) -> bytes:
    if not (0 < argon2.time <= _TIME_MAX and 8 <= argon2.memory_kib <= _MEMORY_KIB_MAX and 0 < argon2.lanes <= _LANES_MAX):
        raise FormatError("the root key's file is damaged: parameters of Argon2 out of range")
    try:
        return AESGCM(_derive(passphrase, argon2)).decrypt(kept.key[:_NONCE_BYTES], kept.key[_NONCE_BYTES:], _context(kept.cluster))
    except InvalidTag:
        raise ConfigError("the passphrase does not open the root key") from None


def _derive(passphrase: str, argon2: Argon2) -> bytes:
    return hash_secret_raw(passphrase.encode(), argon2.salt, argon2.time, argon2.memory_kib, argon2.lanes, KEY_BYTES, Type.ID)


def _context(cluster: str) -> bytes:
    return b"titans3 root key of " + cluster.encode()


def read_kept(data: bytes) -> KeptKey:
    """A file's content. Raises FormatError."""
    try:
        return msgspec.json.decode(data, type=KeptKey)
    except msgspec.MsgspecError as error:
        raise FormatError(f"the root key's file is not readable: {error}") from error
