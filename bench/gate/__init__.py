"""The gate: what the hot path costs, counted, and held to budgets that are kept beside it. ``python tools/dev.py bench gate``."""
