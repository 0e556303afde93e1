"""The parts of a worker, with spans of what they do for requests that are traced. Loaded only when traces are made.

Invariants
* Each does what the part that it is made from does, and nothing else when the request is not traced.
* A span ends whatever happens: by a context, or by the future that it waits for.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from opentelemetry.trace import SpanKind

from titans3.cluster import messages as m
from titans3.cluster.groups import GroupSet
from titans3.cluster.owner import Owner
from titans3.cluster.siblings import Send, Siblings
from titans3.engine.extent import ExtentIdent
from titans3.engine.log import Flushed
from titans3.engine.neighbour import Neighbour
from titans3.engine.record import NO_DATA
from titans3.engine.sink import BodySink
from titans3.engine.volume import Volume
from titans3.http.message import Response
from titans3.model.command import Command
from titans3.model.version import Extent
from titans3.rpc.link import Answer, Handler, Link, LinkServer
from titans3.s3.call import Call
from titans3.s3.call import Handler as Operation
from titans3.s3.gateway import Gateway
from titans3.worker.spans import Attributes
from titans3.worker.tracer import SPAN, Active, Child, Tracer, current, whose_of

P = ParamSpec("P")
T = TypeVar("T")
_CALLS = {value: name for name, value in vars(m).items() if isinstance(value, int) and name.isupper() and "LEVEL" not in name}
del _CALLS[m.PROTOCOL]
_CALLS[m.HELLO] = "HELLO"


def _spanned(span: str, function: Callable[P, T], call: str = "") -> Callable[P, T]:
    """A method that takes no turn of the loop, with a span."""
    call = call or function.__name__

    @functools.wraps(function)
    def method(*args: P.args, **kwargs: P.kwargs) -> T:
        active = current()
        if active is None:
            return function(*args, **kwargs)
        with active.begin(span, attributes={"titans3.call": call}):
            return function(*args, **kwargs)

    return method


class TracedGateway(Gateway):
    """Spans ``parse`` (who asks, for what), ``authorize`` (the bucket and the rights), then what the operation does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handlers = {name: _authorized(handler) for name, handler in self._handlers.items()}

    def _perform(self, *args: Any) -> Coroutine[Any, Any, Response]:
        active = SPAN.get()
        if active is not None:
            active.trace.enter("authorize")
        return super()._perform(*args)


def _authorized(handler: Operation) -> Operation:
    def handle(call: Call) -> Coroutine[Any, Any, Response]:
        active = SPAN.get()
        if active is not None:
            active.trace.enter("")
        return handler(call)

    return handle


class TracedSiblings(Siblings):
    """Spans ``hop``; the trace goes on in the sibling."""

    def call(
        self, worker: int, kind: int, meta: bytes, body: bytes | memoryview = b"", send: Send = Link.call
    ) -> Coroutine[Any, Any, Answer]:
        """See ``Siblings``."""
        active = current()
        if active is None:
            return super().call(worker, kind, meta, body, send)
        return self._hop(active, worker, kind, meta, body)

    async def _hop(self, active: Active, worker: int, kind: int, meta: bytes, body: bytes | memoryview) -> Answer:
        with active.begin("hop", SpanKind.CLIENT, {"titans3.call": _name(kind), "titans3.to_worker": worker}) as hop:

            def send(link: Link, kind: int, meta: bytes, body: bytes | memoryview) -> Awaitable[Answer]:
                return link.call_within(whose_of(hop), kind, meta, body)

            return await super().call(worker, kind, meta, body, send)


def _name(kind: int) -> str:
    return _CALLS.get(kind, str(kind))


def serve_traced(server: LinkServer, tracer: Tracer) -> None:
    """Calls of siblings that belong to traced requests get spans ``serve``. To be called when all handlers are there."""
    server.within = tracer.within
    for kind, handler in server.handlers.items():
        server.handlers[kind] = _served(handler, _name(kind))


def _served(handler: Handler, call: str) -> Handler:
    def handle(meta: bytes, body: bytes) -> Answer | Awaitable[Answer]:
        active = SPAN.get()
        if active is None:
            return handler(meta, body)
        span = active.begin("serve", SpanKind.SERVER, {"titans3.call": call, "titans3.request_id": active.trace.request_id})
        SPAN.set(span)  # the context is this call's alone
        try:
            result = handler(meta, body)
        except BaseException as error:
            _end_call(span, error)
            raise
        if isinstance(result, tuple):
            _end_call(span)
            return result
        return _finish(span, result)

    return handle


async def _finish(span: Child, result: Awaitable[Answer]) -> Answer:
    try:
        answer = await result
    except BaseException as error:
        _end_call(span, error)
        raise
    _end_call(span)
    return answer


def _end_call(span: Child, error: BaseException | None = None) -> None:
    span.end(error)
    span.trace.is_open = False


class TracedOwner(Owner):
    """Spans ``metadata`` of what is looked up."""

    find_nowait = _spanned("metadata", Owner.find_nowait, "find")
    list_shards = _spanned("metadata", Owner.list_shards)
    list_uploads = _spanned("metadata", Owner.list_uploads)
    parts_of = _spanned("metadata", Owner.parts_of)
    parts = _spanned("metadata", Owner.parts)
    upload = _spanned("metadata", Owner.upload)
    completed = _spanned("metadata", Owner.completed)
    usage = _spanned("metadata", Owner.usage)


class TracedNeighbour(Neighbour):
    """Spans ``metadata`` of what is read from a sibling's tree without a hop."""

    find = _spanned("metadata", Neighbour.find, "near find")


class TracedGroupSet(GroupSet):
    """Spans ``flush`` (from the proposal until the sync that covers it returned) and ``metadata`` (its rows are written)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._flushing: dict[object, tuple[Active, Child]] = {}  # by future

    def propose(self, gid: int, command: Command, body: bytes | memoryview = b"", data_id: bytes = NO_DATA) -> Any:
        """See ``GroupSet``."""
        active = current()
        if active is None:
            return super().propose(gid, command, body, data_id)
        attributes: Attributes = {"titans3.command": type(command).__name__, "titans3.group": gid, "titans3.body.bytes": len(body)}
        span = active.begin("flush", attributes=attributes)
        try:
            future = super().propose(gid, command, body, data_id)
        except BaseException as error:
            span.end(error)
            raise
        self._flushing[future] = active, span
        future.add_done_callback(self._ended)
        return future

    def _commit(self, item: Flushed) -> None:
        if not self._flushing:
            super()._commit(item)
            return
        pending = self._pending.get((item.record.gid, item.record.index))
        found = None if pending is None else self._flushing.pop(pending.future, None)
        if found is None:
            super()._commit(item)
            return
        active, span = found
        span.end()
        with active.begin("metadata", attributes={"titans3.call": "apply"}):
            super()._commit(item)

    def _ended(self, future: Any) -> None:
        """Of a proposal that was not committed: its volume failed, or nobody waits any more."""
        found = self._flushing.pop(future, None)
        if found is not None:
            _, span = found
            span.end(None if future.cancelled() else future.exception())


class TracedVolume(Volume):
    """Spans ``read`` of small bodies, ``flush`` of large ones."""

    read_body_nowait = _spanned("read", Volume.read_body_nowait, "body")

    def read_body(self, data_id: bytes) -> Coroutine[Any, Any, bytes]:
        """See ``Volume``."""
        active = current()
        return super().read_body(data_id) if active is None else self._read(active, data_id)

    async def _read(self, active: Active, data_id: bytes) -> bytes:
        with active.begin("read", attributes={"titans3.call": "cold body"}):
            return await super().read_body(data_id)

    def sink(self, ident: ExtentIdent, length: int | None) -> BodySink:
        """See ``Volume``."""
        sink = super().sink(ident, length)
        active = SPAN.get()
        return sink if active is None else _TracedSink(self.extent_writer, self.next_data_id, ident, length)


class _TracedSink(BodySink):
    async def finish(self, md5: bytes) -> tuple[Extent, ...]:
        """See ``BodySink``."""
        active = current()
        if active is None:
            return await super().finish(md5)
        with active.begin("flush", attributes={"titans3.call": "body", "titans3.body.bytes": self.written}):
            return await super().finish(md5)
