"""Of which kind the parts of a worker are that a traced request passes: plain ones, or ones that make spans.

Invariant: without ``tracing.endpoint`` nothing of OpenTelemetry is loaded, and no part knows that there are traces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from titans3.clock import Clock
from titans3.cluster.groups import GroupSet
from titans3.cluster.owner import Owner
from titans3.cluster.siblings import Siblings
from titans3.config.schema import TracingConfig
from titans3.engine.neighbour import Neighbour
from titans3.engine.volume import Volume
from titans3.errors import ConfigError
from titans3.http.forwarded import TrustedProxies
from titans3.rpc.link import LinkServer
from titans3.s3.gateway import Gateway

if TYPE_CHECKING:
    from titans3.worker.tracer import Tracer


def _serve_plainly(server: LinkServer) -> None:
    pass


@dataclass(frozen=True)
class Parts:
    """Kinds, and who traces."""

    siblings: type[Siblings] = Siblings
    owner: type[Owner] = Owner
    group_set: type[GroupSet] = GroupSet
    volume: type[Volume] = Volume
    gateway: type[Gateway] = Gateway
    neighbour: type[Neighbour] = Neighbour
    tracer: Tracer | None = None
    serve_traced: Callable[[LinkServer], None] = _serve_plainly


def choose_parts(config: TracingConfig, cluster: str, worker: int, clock: Clock, proxies: TrustedProxies) -> Parts:
    """As the configuration says. Raises ConfigError without the extra."""
    if not config.endpoint:
        return Parts()
    try:
        from titans3.worker import traced
        from titans3.worker.spans import open_spans
        from titans3.worker.tracer import Tracer
    except ImportError as error:
        raise ConfigError(f"tracing.endpoint: traces need the extra otel: pip install 'titans3[otel]' ({error})") from error
    tracer = Tracer(config, open_spans(config.endpoint, cluster, worker), clock, proxies)
    return Parts(
        traced.TracedSiblings, traced.TracedOwner, traced.TracedGroupSet, traced.TracedVolume, traced.TracedGateway,
        traced.TracedNeighbour, tracer, lambda server: traced.serve_traced(server, tracer),
    )  # fmt: skip
