"""Placement, pure."""
