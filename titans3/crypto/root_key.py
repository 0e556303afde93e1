"""The root key: 32 random bytes under which secrets are sealed.

Invariants
* The root key itself encrypts nothing: each purpose has its own key, derived from it (HKDF-SHA256, RFC 5869), so that no text sealed
  for one purpose opens for another.
* A sealed text names the root key that made it, and opens only for the context it was sealed for (AES-256-GCM's associated data): a
  secret cannot be moved to another record.
* Nothing here prints or compares keys; ``repr`` shows the id alone.
"""

from __future__ import annotations

import os
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_FORMAT = b"\x01"
_ID_BYTES, _NONCE_BYTES, _TAG_BYTES = 8, 12, 16
_HEAD_BYTES = 1 + _ID_BYTES + _NONCE_BYTES


class SealBroken(Exception):
    """A text that this key did not seal, or not for this context, or that was changed."""


class RootKey:
    """One root key and the ciphers of its purposes."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self.id = sha256(b"titans3 root key id\0" + key).digest()[:_ID_BYTES]
        self._ciphers: dict[str, AESGCM] = {}

    def __repr__(self) -> str:
        return f"RootKey({self.id.hex()})"

    @property
    def raw(self) -> bytes:
        """The key itself: for those who keep it."""
        return self._key

    def derived(self, purpose: str) -> bytes:
        """A key of 32 bytes for a purpose that seals nothing."""
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"titans3 mac " + purpose.encode()).derive(self._key)

    def _cipher(self, purpose: str) -> AESGCM:
        cipher = self._ciphers.get(purpose)
        if cipher is None:
            derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"titans3 " + purpose.encode()).derive(self._key)
            cipher = self._ciphers[purpose] = AESGCM(derived)
        return cipher

    def seal(self, purpose: str, context: bytes, text: bytes) -> bytes:
        """``format u8, key id 8, nonce 12, ciphertext, tag 16``."""
        nonce = os.urandom(_NONCE_BYTES)
        head = _FORMAT + self.id + nonce
        return head + self._cipher(purpose).encrypt(nonce, text, head + context)

    def open(self, purpose: str, context: bytes, sealed: bytes) -> bytes:
        """What was sealed. Raises SealBroken."""
        head = sealed[:_HEAD_BYTES]
        if len(sealed) < _HEAD_BYTES + _TAG_BYTES or head[:1] != _FORMAT or head[1 : 1 + _ID_BYTES] != self.id:
            raise SealBroken
        try:
            return self._cipher(purpose).decrypt(head[-_NONCE_BYTES:], sealed[_HEAD_BYTES:], head + context)
        except InvalidTag as error:
            raise SealBroken from error


def new_root_key() -> RootKey:
    """A fresh one."""
    return RootKey(os.urandom(KEY_BYTES))
