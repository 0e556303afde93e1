"""``/_titans3/metrics``: any worker answers for all, by asking its siblings over their links.

Invariants
* Nobody reads the metrics without the token, unless they are public. Tokens are compared in constant time, by their digests, and never
  logged.
* A sibling has METRICS_SECONDS_MAX to answer; one that does not is left out, and ``titans3_worker_up`` of it is 0.
* Usage of buckets is the sum over all volumes or not shown: a part of it would be a wrong number. Buckets that have series of their own are
  the largest, at most ``metrics.buckets_max``.
"""

from __future__ import annotations

import asyncio
import heapq
import hmac
from collections.abc import Callable
from hashlib import sha256

import msgspec

from titans3.clock import Clock
from titans3.cluster import messages as m
from titans3.cluster.siblings import Siblings
from titans3.config.schema import MetricsConfig
from titans3.errors import ClientError, PeerError
from titans3.http.message import Request, Response
from titans3.jobs.usage import Usage
from titans3.limits import METRICS_SECONDS_MAX, METRICS_USAGE_BUCKETS_MAX
from titans3.model.control import BucketRecord
from titans3.model.version import BucketUsage
from titans3.observe.exposition import OPEN_METRICS, TEXT, Samples, render
from titans3.observe.requests import BucketTraffic, RequestCounters
from titans3.rpc.link import Answer, LinkServer

_CLOSED = b"The metrics are closed: set metrics.token, metrics.token_file or metrics.public (docs/monitoring.md).\n"
_WRONG = b"The metrics ask for the bearer token that metrics.token or metrics.token_file says.\n"
_PLAIN = (b"content-type", b"text/plain; charset=utf-8")


class Told(msgspec.Struct, array_like=True):
    """What a worker tells: its samples, and of buckets by id and name what it holds and served. ``age``: see ``Usage``."""

    samples: Samples
    usage: dict[int, BucketUsage]
    age: float
    traffic: dict[str, BucketTraffic]


_encode = msgspec.msgpack.Encoder().encode
_told = msgspec.msgpack.Decoder(Told).decode


class Scrape:
    """The endpoint of one worker. ``own`` reads this worker, ``server`` the whole."""

    def __init__(
        self,
        siblings: Siblings,
        links: LinkServer,
        requests: RequestCounters,
        usage: Usage,
        clock: Clock,
        *,
        config: MetricsConfig,
        own: Callable[[], Samples],
        server: Callable[[], Samples],
        buckets: Callable[[], dict[str, BucketRecord]],
    ) -> None:
        self._siblings, self._requests, self._usage, self._clock = siblings, requests, usage, clock
        self._own, self._server, self._buckets = own, server, buckets
        self.config = config
        self.refused = 0
        links.handlers[m.METRICS] = self._on_metrics

    async def handle(self, request: Request) -> Response:
        """The answer to a GET of the path."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.method not in ("GET", "HEAD"):
            return Response(405, [_PLAIN, (b"allow", b"GET, HEAD")], b"GET is what reads the metrics.\n")
        open_metrics = b"application/openmetrics-text" in request.fields.get(b"accept", b"")
        samples = await self.collect()
        document = await asyncio.get_running_loop().run_in_executor(None, lambda: render(samples, open_metrics=open_metrics))
        return Response(200, [(b"content-type", (OPEN_METRICS if open_metrics else TEXT).encode())], document)

    def _refusal(self, request: Request) -> Response | None:
        config = self.config
        if config.public:
            return None
        if not config.token:
            return Response(403, [_PLAIN], _CLOSED)
        scheme, _, token = request.fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(sha256(token.strip()).digest(), sha256(config.token.encode()).digest()):
            return None
        self.refused += 1
        return Response(401, [_PLAIN, (b"www-authenticate", b'Bearer realm="titans3 metrics"')], _WRONG)

    # collecting ----------------------------------------------------------------------------------------------------

    async def collect(self) -> Samples:
        """Samples of the whole server, with all labels."""
        begin = self._clock.monotonic()
        me = self._siblings.me
        asked = {asyncio.ensure_future(self._ask(worker)): worker for worker in range(self._siblings.count) if worker != me}
        told: dict[int, Told | None] = {me: self._tell()}
        if asked:
            done, late = await asyncio.wait(asked, timeout=METRICS_SECONDS_MAX)
            for task in late:
                task.cancel()
            told |= {asked[task]: task.result() if task in done else None for task in asked}
        samples = self._server()
        for worker, answer in sorted(told.items()):
            samples.add("titans3_worker_up", int(answer is not None), str(worker))
            if answer is not None:
                samples.take(answer.samples, worker)
        self._add_buckets(samples, told)
        samples.add("titans3_scrape_duration_seconds", self._clock.monotonic() - begin)
        return samples

    async def _ask(self, worker: int) -> Told | None:
        """What a sibling tells; ``None`` if it does not."""
        try:
            link = self._siblings.link_nowait(worker) or await self._siblings.link_once(worker)
            if link is None:
                return None
            meta, _ = await link.call(m.METRICS, b"")
            return _told(meta)
        except (ClientError, PeerError, msgspec.MsgspecError):
            return None

    def _on_metrics(self, meta: bytes, body: bytes) -> Answer:
        return _encode(self._tell()), b""

    def _tell(self) -> Told:
        self._requests.forget(self._buckets())
        traffic = self._requests.buckets()
        if len(traffic) > METRICS_USAGE_BUCKETS_MAX:
            traffic = dict(heapq.nlargest(METRICS_USAGE_BUCKETS_MAX, traffic.items(), key=lambda item: item[1].requests))
        return Told(self._own(), self._usage.largest(), self._usage.age_seconds, traffic)

    # buckets -------------------------------------------------------------------------------------------------------

    def _add_buckets(self, samples: Samples, told: dict[int, Told | None]) -> None:
        buckets = self._buckets()
        usage: dict[int, BucketUsage] = {}
        ages = []
        for answer in told.values():
            ages.append(-1.0 if answer is None else answer.age)
            for number, part in () if answer is None else answer.usage.items():
                usage[number] = usage[number] + part if number in usage else part
        nothing = BucketUsage()
        shown = heapq.nsmallest(
            self.config.buckets_max, buckets.values(), key=lambda record: (-usage.get(record.bucket, nothing).stored_bytes, record.name)
        )
        if min(ages) >= 0.0 and shown:
            samples.add("titans3_bucket_usage_age_seconds", max(ages))
            for record in shown:
                _add_usage(samples, record.name, usage.get(record.bucket, nothing))
                samples.add("titans3_bucket_quota_bytes", record.quota, record.name)
        for record in shown:
            for worker, answer in told.items():
                if answer is not None:
                    _add_traffic(samples, worker, record.name, answer.traffic.get(record.name, BucketTraffic()))


def _add_usage(samples: Samples, name: str, usage: BucketUsage) -> None:
    samples.add("titans3_bucket_keys", usage.keys, name)
    samples.add("titans3_bucket_versions", usage.versions, name)
    samples.add("titans3_bucket_delete_markers", usage.markers, name)
    samples.add("titans3_bucket_stored_bytes", usage.stored_bytes, name)
    samples.add("titans3_bucket_uploads", usage.uploads, name)
    samples.add("titans3_bucket_upload_bytes", usage.upload_bytes, name)


def _add_traffic(samples: Samples, worker: int, name: str, traffic: BucketTraffic) -> None:
    labels = (str(worker), name)
    samples.add("titans3_bucket_requests_total", traffic.requests, *labels)
    samples.add("titans3_bucket_client_errors_total", traffic.client_errors, *labels)
    samples.add("titans3_bucket_server_errors_total", traffic.server_errors, *labels)
    samples.add("titans3_bucket_received_bytes_total", traffic.received, *labels)
    samples.add("titans3_bucket_sent_bytes_total", traffic.sent, *labels)
