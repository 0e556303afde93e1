"""Benchmarks; ``python tools/dev.py bench`` runs them."""
