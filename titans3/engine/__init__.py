"""Bytes and log on volumes."""
