"""Failure tests against real processes."""
