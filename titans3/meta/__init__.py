"""LMDB, overlay, rows and the state machine."""
