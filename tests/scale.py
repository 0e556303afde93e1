"""How much the random and exhaustive tests try: enough for every change by default, far more with ``TITANS3_LONG=1``.

``python tools/dev.py long`` runs them in the long form.
"""

from __future__ import annotations

import os

LONG = os.environ.get("TITANS3_LONG") == "1"


def scaled(short: int, long: int) -> int:
    """``short``, or ``long`` in the long form."""
    return long if LONG else short
