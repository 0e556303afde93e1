"""How late TitanS3's event loops were, from the samples of its metric that came between two looks at it.

Invariants
* A percentile of a histogram is the bound that as many samples are at or below: it never tells less than there was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

SHARE = 0.999
_LAG = re.compile(r'titans3_loop_lag_seconds_bucket\{.*le="([^"]+)".*\}')


def counts(watched: Mapping[str, float]) -> dict[float, float]:
    """Samples at or below each bound in seconds, of all workers."""
    found: dict[float, float] = {}
    for name, value in watched.items():
        match = _LAG.match(name)
        if match is not None:
            bound = float(match.group(1).replace("+Inf", "inf"))
            found[bound] = found.get(bound, 0.0) + value
    return found


def together(many: Iterable[Mapping[str, float]]) -> dict[float, float]:
    """The counts of several cells as of one."""
    whole: dict[float, float] = {}
    for watched in many:
        for bound, value in counts(watched).items():
            whole[bound] = whole.get(bound, 0.0) + value
    return whole


def milliseconds(found: Mapping[float, float], share: float = SHARE) -> float:
    """Bound that this share of the samples is at or below; 0 without samples, infinite if it is above all bounds."""
    total = found.get(math.inf, 0.0)
    bounds = (bound for bound in sorted(found) if found[bound] >= total * share)
    return next(bounds, 0.0) * 1e3 if total else 0.0
