"""The Raft seam, pure."""
