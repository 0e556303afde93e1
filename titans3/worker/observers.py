"""Who looks at answered requests: the counters always, the access log, the audit trail and watchers when they are switched on.

Invariants
* With nothing switched on a request is seen by the counters alone, called directly: what nobody uses costs nothing.
* The audit trail sees every refusal and every change of a bucket's settings; what the APIs of administration do they record themselves,
  before their answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

import msgspec

from titans3.clock import Clock
from titans3.cluster.control.interface import Conflict
from titans3.cluster.control.system import SystemControl
from titans3.cluster.identities import Identities
from titans3.config.schema import Config
from titans3.crypto.root_key import RootKey
from titans3.errors import ClientError, PeerError
from titans3.http.forwarded import TrustedProxies
from titans3.http.message import Request
from titans3.http.target import hidden
from titans3.jobs.audit_webhook import AuditWebhook
from titans3.jobs.runner import Jobs
from titans3.observe.audit import AuditTrail, Head, anchor_key
from titans3.observe.requests import RequestCounters
from titans3.s3.operation import BUCKET
from titans3.s3.operations import OPERATIONS
from titans3.worker.access_log import AccessLog

ANCHOR_SECONDS = 30.0
_CHANGES = frozenset(
    operation.name for operation in OPERATIONS.values() if operation.kind == BUCKET and operation.method in ("PUT", "DELETE")
) | {"PutObjectAcl"}  # fmt: skip
_REFUSED = frozenset((401, 403))
_TARGET_MAX = 2048
_logger = logging.getLogger("titans3.audit")
_encode = msgspec.msgpack.Encoder().encode
Answered = Callable[[Request, int, int, int, float, float], None]


class Observers:
    """Of one worker. ``hear`` is told what connections call after each answer, whenever that changes."""

    def __init__(
        self, config: Config, data: str, worker: int, counters: RequestCounters, clock: Clock, *, root_key: RootKey, identities: Identities,
        control: SystemControl, proxies: TrustedProxies, hear: Callable[[Answered], None], cluster: str, workers: int,
    ) -> None:  # fmt: skip
        self._counters, self._clock, self._control, self._proxies, self._worker = counters, clock, control, proxies, worker
        self._hear = hear
        self.access_log: AccessLog | None = None
        self.audit: AuditTrail | None = None
        self.webhook: AuditWebhook | None = None
        if config.access_log.path:
            self.access_log = AccessLog(
                config.access_log.path, worker, clock, form=config.access_log.format, file_bytes=config.access_log.file_bytes,
                files_max=config.access_log.files_max, client=self.client_of, owner=self._owner_of(identities), host_id=cluster[:8],
                traced=bool(config.tracing.endpoint),
            )  # fmt: skip
        if config.audit.enabled:
            folder = config.audit.path or os.path.join(data, "audit")
            self.audit = AuditTrail(folder, worker, audit_key(root_key), clock, file_bytes=config.audit.file_bytes)
            if config.audit.webhook_url:
                self.webhook = AuditWebhook(config.audit, self.audit, workers, cluster, clock)
        self._watchers: list[Answered] = []
        self._join()

    def _owner_of(self, identities: Identities) -> Callable[[str], str]:
        def owner(bucket: str) -> str:
            record = self._control.cache.buckets.get(bucket)
            return "-" if record is None else identities.owner(record.owner)[0]

        return owner

    def client_of(self, request: Request) -> str:
        """The address behind trusted proxies."""
        return self._proxies.client(request.peer, request.fields.get(b"x-forwarded-for"))

    # who is told ---------------------------------------------------------------------------------------------------

    def watch(self, watcher: Answered) -> None:
        """Tell somebody else, too, until ``unwatch``."""
        self._watchers.append(watcher)
        self._join()

    def unwatch(self, watcher: Answered) -> None:
        """No more."""
        self._watchers.remove(watcher)
        self._join()

    def _join(self) -> None:
        told: list[Answered] = [self._counters.answered]
        if self.access_log is not None:
            told.append(self.access_log.answered)
        told += self._watchers
        self._hear(_joined(told, None if self.audit is None else self._audited))

    # the audit trail -----------------------------------------------------------------------------------------------

    def _audited(self, request: Request, status: int) -> None:
        """A refusal, or what was asked that would change a bucket's settings."""
        assert self.audit is not None
        if status in _REFUSED:
            self.audit.refused(self.event_of(request, "refused", status))
        elif status < 300:
            self.audit.record(self.event_of(request, "done", status))

    def event_of(self, request: Request, event: str, status: int, **more: Any) -> dict[str, Any]:
        """What the audit trail says of a request."""
        caller = request.caller
        action = "" if request.state is None else str(request.state.get("action", ""))
        return {
            "event": event, "request_id": request.request_id, "client": self.client_of(request),
            "who": "" if caller is None else caller.arn, "access_key": "" if caller is None else caller.access_key,
            "account": "" if caller is None else caller.account, "action": action or request.operation or request.method,
            "target": hidden(request.target)[:_TARGET_MAX].decode("latin-1"), "status": status, "error": request.error,
            "user_agent": request.fields.get(b"user-agent", b"")[:300].decode("latin-1"), **more,
        }  # fmt: skip

    async def administrated(self, request: Request, status: int, details: dict[str, Any]) -> None:
        """What an API of administration did, before its answer goes out."""
        if self.audit is None:
            return
        try:
            await self.audit.record_now(self.event_of(request, "done", status, details=details))
        except OSError as error:  # it is done, and waits to be written
            _logger.error("the audit trail cannot be written: %s", error, extra={"request_id": request.request_id})

    async def _anchor(self) -> None:
        """Keep the end of the chain in the control plane, where a cut of the file does not reach."""
        assert self.audit is not None
        kept = Head(-1, "")
        while True:
            await asyncio.sleep(ANCHOR_SECONDS)
            kept = await self.anchor(kept)

    async def anchor(self, kept: Head) -> Head:
        """Once; what is kept now."""
        assert self.audit is not None
        head = self.audit.head
        if head == kept or not head.number:
            return kept
        try:
            await self._control.cas([(anchor_key(self._worker), _encode((1, head.number, head.hash)))], {})
        except (ClientError, PeerError, Conflict) as error:
            _logger.info("the end of the audit trail is kept in the next round: %s", error)
            return kept
        return head

    # life ----------------------------------------------------------------------------------------------------------

    def add_jobs(self, jobs: Jobs) -> None:
        """What runs while the worker serves."""
        if self.access_log is not None:
            jobs.add("access log", self.access_log.run)
        if self.audit is not None:
            jobs.add("audit trail", self.audit.run)
            jobs.add("audit anchor", self._anchor)
        if self.webhook is not None:
            jobs.add("audit webhook", self.webhook.run)

    def reload(self, config: Config) -> None:
        """Take up what changes while running."""
        if self.webhook is not None:
            self.webhook.take(config.audit)

    def open(self) -> None:
        """When the worker has its volumes, and no other process its files. Raises OSError."""
        if self.audit is not None:
            self.audit.open()

    async def close(self) -> None:
        """Write the last."""
        if self.access_log is not None:
            await self.access_log.write()
        if self.audit is not None:
            await self.audit.close()


def _joined(told: list[Answered], audited: Callable[[Request, int], None] | None = None) -> Answered:
    """One call for all of them, with few more inside: it is made with every answer. ``audited`` hears of what it is about alone."""
    first_told, *others = told
    if not others and audited is None:
        return first_told
    other_told = _joined(others) if others else None

    def all_told(request: Request, status: int, received: int, sent: int, seconds: float, first: float) -> None:
        first_told(request, status, received, sent, seconds, first)
        if other_told is not None:
            other_told(request, status, received, sent, seconds, first)
        if audited is not None and (status in _REFUSED or request.operation in _CHANGES):
            audited(request, status)

    return all_told


def audit_key(root_key: RootKey) -> bytes:
    """What the hashes of the audit trail are keyed by."""
    return root_key.derived("audit")

