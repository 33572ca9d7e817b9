"""Hubble's Observer, served from a FlowStore on unix sockets and TCP (grpc.aio): what the `hubble` client and our own talk to.

GetFlows behaves as the agent's (pkg/hubble/observer/local_observer.go), GetNodes and GetNamespaces as Relay's. Agent and debug
events do not exist here and are answered UNIMPLEMENTED. There is no authentication: a unix socket is guarded by its folder, and a
TCP address by whoever asked for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

import harness
from harness.errors import ClusterError
from harness.hubble.batch import limit, pack
from harness.hubble.convert import time_of
from harness.hubble.filters import FilterError, Predicate, compile_filters
from harness.hubble.mask import compile_mask
from harness.hubble.proto import SERVICE, flow_pb2, observer_pb2, relay_pb2
from harness.hubble.store import Entry, FlowStore, Reader

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_GRACE = 0.2
"""How long a stream may take to end when the server closes (s)."""
_GATHER, _WINDOW, _MANY = 0.002, 0.01, 16
"""Where more than so many flows come within the window (s), those that follow are gathered (s) before they are written."""
_SERVING = b"\x08\x01"
"""A HealthCheckResponse with status SERVING."""

__all__ = ["FlowServer", "FlowStore", "serve"]


@dataclass(slots=True)
class FlowServer:
    """A running server. `addresses` are gRPC targets that clients can use as they are (a TCP port of 0 has been chosen)."""

    addresses: tuple[str, ...]
    _server: grpc.aio.Server
    _service: _Observer

    async def close(self) -> None:
        """Stop at once; streams end. Idempotent. Socket files are gone."""
        # Streams that are let go end quietly; only those stuck at a client that does not read are cancelled.
        self._service.close()
        await self._server.stop(grace=_GRACE)
        _remove_sockets(self.addresses)


async def serve(
    store: FlowStore,
    addresses: Sequence[str],
    *,
    nodes: Sequence[str] = (),
    namespaces: Callable[[], Iterable[str]] | Iterable[str] = (),
    version: str = f"harness {harness.__version__}",
    cluster: str = "default",
) -> FlowServer:
    """Serve the store on every address: `unix:///path/of.sock`, `host:port`, `[::1]:0`.

    `nodes` and `namespaces` answer GetNodes and GetNamespaces (namespaces that flows name are added). Raises ClusterError where an
    address cannot be had. Call it on the event loop that publishes.
    """
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    service = _Observer(store, tuple(nodes), namespaces, version, cluster)
    server.add_generic_rpc_handlers((service.handler(), _health()))
    bound: list[str] = []
    # A socket file left by a killed process would refuse the bind.
    _remove_sockets(addresses)
    for address in addresses:
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            await server.stop(grace=0)
            raise ClusterError(
                f"flows cannot be served on {address}: {error}", hint="Pass another --hubble-listen address, or end what uses this one."
            ) from error
        bound.append(address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}")
    await server.start()
    service.addresses = tuple(bound)
    return FlowServer(tuple(bound), server, service)


def _remove_sockets(addresses: Iterable[str]) -> None:
    for address in addresses:
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:").removeprefix("//")).unlink(missing_ok=True)


def _health() -> grpc.GenericRpcHandler[Any, Any]:
    """grpc.health.v1, which `hubble status` asks first: always serving, for a server that is there."""

    async def check(_request: Any, _context: _Context) -> bytes:
        return _SERVING

    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)})


def _nothing(data: bytes) -> bytes:
    return data


class _Observer:
    """The methods of the service, on messages. Responses of GetFlows are bytes already: each event is serialized once for all clients."""

    def __init__(
        self, store: FlowStore, nodes: tuple[str, ...], namespaces: Callable[[], Iterable[str]] | Iterable[str], version: str, cluster: str
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._namespaces = namespaces
        self._version = version
        self._cluster = cluster
        self.addresses: tuple[str, ...] = ()
        self._closed = False

    def close(self) -> None:
        """End the streams that wait for flows."""
        self._closed = True
        self._store.wake()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        def unary(method: Callable[[Any, _Context], Awaitable[Any]], request: Any, response: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )

        def stream(method: Any, request: Any, serializer: Any) -> Any:
            return grpc.unary_stream_rpc_method_handler(method, request_deserializer=request.FromString, response_serializer=serializer)

        messages = observer_pb2
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "GetFlows": stream(self.get_flows, messages.GetFlowsRequest, _nothing),
                "GetAgentEvents": stream(self.get_agent_events, messages.GetAgentEventsRequest, _nothing),
                "GetDebugEvents": stream(self.get_debug_events, messages.GetDebugEventsRequest, _nothing),
                "GetNodes": unary(self.get_nodes, messages.GetNodesRequest, messages.GetNodesResponse),
                "GetNamespaces": unary(self.get_namespaces, messages.GetNamespacesRequest, messages.GetNamespacesResponse),
                "ServerStatus": unary(self.server_status, messages.ServerStatusRequest, messages.ServerStatusResponse),
            },
        )

    async def get_flows(self, request: observer_pb2.GetFlowsRequest, context: _Context) -> None:
        if request.first and request.follow:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "first cannot be specified with follow")
        try:
            wanted = compile_filters(request.whitelist, request.blacklist)
            mask = compile_mask(request.field_mask.paths)
        except (FilterError, ValueError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        reader = Reader(self._store, _start(self._store, request, wanted))
        # The client may count on every flow from here on.
        await context.send_initial_metadata(())
        limits = _Limits(request)
        batch = limit(request)
        pace = _Pace()
        while True:
            out = []
            for entry in reader.take():
                if not entry.lost:
                    if limits.over(entry):
                        break
                    if entry.time < limits.since or (wanted is not None and not wanted(entry.message)):
                        continue
                    limits.counted()
                out.append(entry.encoded if mask is None or entry.lost else _masked(entry, mask))
            for first in range(0, len(out), batch):
                await context.write(pack(out[first : first + batch]))
            pace.wrote(len(out))
            if limits.reached:
                return
            if self._store.end == reader.position:
                if not request.follow or self._closed:
                    return
                await reader.wait()
                if batch > 1 and pace.busy:
                    await asyncio.sleep(_GATHER)
            else:
                # A long run of unwanted flows must not hold up the packets, which share this loop.
                await asyncio.sleep(0)

    async def get_agent_events(self, _request: Any, context: _Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "GetAgentEvents not implemented: there is no agent here")

    async def get_debug_events(self, _request: Any, context: _Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "GetDebugEvents not implemented: there is no datapath to debug here")

    async def get_nodes(self, _request: Any, _context: _Context) -> observer_pb2.GetNodesResponse:
        return observer_pb2.GetNodesResponse(nodes=[self._node(name if "/" in name else f"{self._cluster}/{name}") for name in self._nodes])

    def _node(self, name: str) -> observer_pb2.Node:
        held, seen = self._store.flows_of(name)
        return observer_pb2.Node(
            name=name,
            version=self._version,
            address=self.addresses[0] if self.addresses else "",
            state=relay_pb2.NODE_CONNECTED,
            tls=observer_pb2.TLS(enabled=False),
            uptime_ns=self._store.uptime_ns,
            num_flows=held,
            max_flows=self._store.capacity,
            seen_flows=seen,
        )

    async def get_namespaces(self, _request: Any, _context: _Context) -> observer_pb2.GetNamespacesResponse:
        known = self._namespaces() if callable(self._namespaces) else self._namespaces
        names = sorted(set(known) | self._store.namespaces())
        return observer_pb2.GetNamespacesResponse(
            namespaces=[observer_pb2.Namespace(cluster=self._cluster, namespace=name) for name in names]
        )

    async def server_status(self, _request: Any, _context: _Context) -> observer_pb2.ServerStatusResponse:
        response = observer_pb2.ServerStatusResponse(
            num_flows=self._store.num_flows,
            max_flows=self._store.capacity,
            seen_flows=self._store.seen_flows,
            uptime_ns=self._store.uptime_ns,
            version=self._version,
            flows_rate=self._store.flows_rate(),
        )
        if self._nodes:
            response.num_connected_nodes.value = len(self._nodes)
            response.num_unavailable_nodes.value = 0
        return response


class _Pace:
    """Whether flows come so fast that some had better travel together: a message costs far more than a flow, and waiting costs time."""

    def __init__(self) -> None:
        self._began = 0.0
        self._count = 0
        self.busy = False

    def wrote(self, count: int) -> None:
        now = time.monotonic()
        if now - self._began > _WINDOW:
            self._began, self._count, self.busy = now, 0, self._count > _MANY
        self._count += count


class _Limits:
    """Where a stream ends: after `number` flows (unless it follows), or at the first flow after `until`."""

    def __init__(self, request: observer_pb2.GetFlowsRequest) -> None:
        self.since = time_of(request.since) if request.HasField("since") else 0
        self._until = time_of(request.until) if request.HasField("until") else None
        self._number = 0 if request.follow else request.number
        self._count = 0
        self.reached = False

    def over(self, entry: Entry) -> bool:
        self.reached = self.reached or (self._until is not None and entry.time > self._until)
        return self.reached

    def counted(self) -> None:
        self._count += 1
        self.reached = self._count == self._number


def _start(store: FlowStore, request: observer_pb2.GetFlowsRequest, wanted: Predicate | None) -> int:
    """The position to read from, as newRingReader in Cilium: `since` wins over `number` and `first`."""
    since = time_of(request.since) if request.HasField("since") else None
    if since is None and (request.first or not request.number):
        return store.end if request.follow and not request.first else store.oldest
    position, count = store.end, 0
    for entry in store.backwards():
        if not entry.lost:
            if since is not None and entry.time < since:
                break
            if since is None and (wanted is None or wanted(entry.message)):
                count += 1
        position -= 1
        if since is None and count == request.number:
            break
    return position


def _masked(entry: Entry, mask: Callable[[flow_pb2.Flow], flow_pb2.Flow]) -> bytes:
    response = observer_pb2.GetFlowsResponse(flow=mask(entry.message))
    # As Hubble does it: the envelope is filled from the masked flow.
    response.node_name = response.flow.node_name
    if response.flow.HasField("time"):
        response.time.CopyFrom(response.flow.time)
    return response.SerializeToString()
