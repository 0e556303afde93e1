"""Envelope encryption: the root key, what it seals, and how it is kept. Layout: docs/formats/root-key.md."""
