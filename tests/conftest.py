"""For all tests: every worker of a server that a test starts is active, whatever else uses this machine's processors meanwhile.

Tests of what follows the processors (``tests/faults/test_moves.py``) take the variable out again.
"""

from __future__ import annotations

import os

from titans3.config.schema import WORKERS_MAX

os.environ.setdefault("TITANS3_NODE__ACTIVE_WORKERS", str(WORKERS_MAX))
