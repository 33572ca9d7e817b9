"""Reading flows from any Observer (the lab's, an agent's, Relay's) over gRPC. Not matching: that is `match`; not serving: `server`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self

import grpc
import grpc.aio
from msgspec import Struct

from harness.errors import FlowsUnavailableError
from harness.hubble.convert import Event, event_of
from harness.hubble.proto import SERVICE, flow_pb2, observer_pb2

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # an Observer is on this machine or behind a port-forward, never behind a web proxy
    ("grpc.max_receive_message_length", 16 << 20),
    # gRPC waits ever longer between attempts, up to two minutes: a Relay that is back would stay unseen for as long as it was away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class ConnectionClosedError(FlowsUnavailableError):
    """This end closed the connection: asking again is of no use."""


class ServerStatus(Struct, frozen=True):
    """What the Observer says about itself. Node counts are None where it does not know (an agent's own Observer)."""

    version: str
    num_flows: int
    max_flows: int
    seen_flows: int
    flows_rate: float
    connected_nodes: int | None = None
    unavailable_nodes: int | None = None
    unavailable: tuple[str, ...] = ()


class Observer:
    """A connection to an Observer. Close it, or use it as an async context manager."""

    def __init__(self, target: str, channel: grpc.aio.Channel) -> None:
        self.target = target
        self._channel = channel
        messages = observer_pb2
        self._get_flows: Any = channel.unary_stream(
            f"/{SERVICE}/GetFlows",
            request_serializer=messages.GetFlowsRequest.SerializeToString,
            response_deserializer=messages.GetFlowsResponse.FromString,
        )
        self._server_status: Any = channel.unary_unary(
            f"/{SERVICE}/ServerStatus",
            request_serializer=messages.ServerStatusRequest.SerializeToString,
            response_deserializer=messages.ServerStatusResponse.FromString,
        )
        self._get_nodes: Any = channel.unary_unary(
            f"/{SERVICE}/GetNodes",
            request_serializer=messages.GetNodesRequest.SerializeToString,
            response_deserializer=messages.GetNodesResponse.FromString,
        )
        self._get_namespaces: Any = channel.unary_unary(
            f"/{SERVICE}/GetNamespaces",
            request_serializer=messages.GetNamespacesRequest.SerializeToString,
            response_deserializer=messages.GetNamespacesResponse.FromString,
        )

    @classmethod
    async def connect(
        cls, target: str, *, within: float = 5.0, credentials: grpc.ChannelCredentials | None = None, server_name: str = ""
    ) -> Self:
        """Connect and make sure that an Observer answers.

        `target` is `unix:///path` or `host:port`. With `credentials` the connection is TLS, and `server_name` is what the certificate
        must say (Relay's: `*.hubble-relay.cilium.io`). `within` is how long it may take (s). Raises FlowsUnavailableError.
        """
        options: list[tuple[str, Any]] = list(_OPTIONS)
        if target.startswith("unix:"):
            # Go servers refuse the authority that gRPC makes of a socket's path.
            options.append(("grpc.default_authority", "localhost"))
        if server_name:
            options.append(("grpc.ssl_target_name_override", server_name))
        channel = (
            grpc.aio.secure_channel(target, credentials, options=options)
            if credentials is not None
            else grpc.aio.insecure_channel(target, options=options)
        )
        observer = cls(target, channel)
        try:
            await observer.status(within=within)
        except BaseException:
            await observer.close()
            raise
        return observer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def status(self, *, within: float = 5.0) -> ServerStatus:
        """What the server says about itself. Raises FlowsUnavailableError."""
        answer = await self._ask(self._server_status, observer_pb2.ServerStatusRequest(), within)
        return ServerStatus(
            version=answer.version,
            num_flows=answer.num_flows,
            max_flows=answer.max_flows,
            seen_flows=answer.seen_flows,
            flows_rate=answer.flows_rate,
            connected_nodes=answer.num_connected_nodes.value if answer.HasField("num_connected_nodes") else None,
            unavailable_nodes=answer.num_unavailable_nodes.value if answer.HasField("num_unavailable_nodes") else None,
            unavailable=tuple(answer.unavailable_nodes),
        )

    async def nodes(self, *, within: float = 5.0) -> tuple[str, ...]:
        """The nodes that the Observer reads from. Raises FlowsUnavailableError (an agent's own Observer does not know)."""
        answer = await self._ask(self._get_nodes, observer_pb2.GetNodesRequest(), within)
        return tuple(node.name for node in answer.nodes)

    async def held(self, *, within: float = 5.0) -> Mapping[str, int]:
        """How many flows the ring of each node holds, by the nodes' names; by '' for a server that knows no nodes (an agent's own Observer).
        Raises FlowsUnavailableError."""
        try:
            answer = await self._get_nodes(observer_pb2.GetNodesRequest(), timeout=within, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise unavailable(self.target, error) from error
            return {"": (await self.status(within=within)).num_flows}
        except grpc.aio.UsageError:
            raise self._closed() from None
        return {node.name: node.num_flows for node in answer.nodes}

    async def namespaces(self, *, within: float = 5.0) -> tuple[str, ...]:
        """The namespaces with recent flows. Raises FlowsUnavailableError."""
        answer = await self._ask(self._get_namespaces, observer_pb2.GetNamespacesRequest(), within)
        return tuple(one.namespace for one in answer.namespaces)

    async def flows(
        self,
        *,
        follow: bool = False,
        since: int | None = None,
        until: int | None = None,
        number: int = 0,
        first: bool = False,
        whitelist: Sequence[flow_pb2.FlowFilter] = (),
        blacklist: Sequence[flow_pb2.FlowFilter] = (),
        field_mask: Sequence[str] = (),
    ) -> AsyncIterator[Event]:
        """Flows and lost events, as GetFlows gives them; times in nanoseconds since the epoch.

        What is neither (node status, flows without a layer 4) is left out. Raises FlowsUnavailableError when the stream breaks.
        """
        request = flows_request(follow=follow, since=since, until=until, number=number, first=first)
        request.whitelist.extend(whitelist)
        request.blacklist.extend(blacklist)
        request.field_mask.paths.extend(field_mask)
        call = self.stream(request)
        try:
            async for response in call:
                event = event_of(response)
                if event is not None:
                    yield event
        except grpc.aio.AioRpcError as error:
            raise unavailable(self.target, error) from error
        finally:
            call.cancel()

    def stream(self, request: observer_pb2.GetFlowsRequest) -> Any:
        """The raw call of GetFlows: an async iterator of GetFlowsResponse with `cancel`, `initial_metadata` and so on."""
        try:
            return self._get_flows(request)
        except grpc.aio.UsageError:
            raise self._closed() from None

    async def close(self) -> None:
        """Close the connection; streams end. Idempotent."""
        await self._channel.close(None)

    async def _ask(self, method: Any, request: Any, within: float) -> Any:
        # gRPC fails fast while it backs off from a refused connection; a server that is just starting deserves the whole time.
        try:
            return await method(request, timeout=within, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise unavailable(self.target, error) from error
        except grpc.aio.UsageError:
            raise self._closed() from None

    def _closed(self) -> ConnectionClosedError:
        return ConnectionClosedError(f"the connection to the Hubble Observer at {self.target} is closed")


def flows_request(
    *, follow: bool = False, since: int | None = None, until: int | None = None, number: int = 0, first: bool = False
) -> observer_pb2.GetFlowsRequest:
    request = observer_pb2.GetFlowsRequest(follow=follow, number=number, first=first)
    for stamp, value in ((request.since, since), (request.until, until)):
        if value is not None:
            stamp.seconds, stamp.nanos = divmod(value, 1_000_000_000)
            stamp.SetInParent()
    return request


def unavailable(target: str, error: grpc.aio.AioRpcError) -> FlowsUnavailableError:
    """What a gRPC error means to a person."""
    code, details = error.code(), error.details() or "no details"
    hints = {
        grpc.StatusCode.UNAVAILABLE: "Is Hubble enabled there, and the address right? `--hubble=off` runs without flows.",
        grpc.StatusCode.DEADLINE_EXCEEDED: "Nothing answered. Is Hubble enabled there, and the address right? `--hubble=off` runs without flows.",
        grpc.StatusCode.UNIMPLEMENTED: "What answers there is no Hubble Observer.",
        grpc.StatusCode.UNAUTHENTICATED: "The Observer asks for a client certificate.",
        grpc.StatusCode.INVALID_ARGUMENT: "The server refused the request.",
    }
    return FlowsUnavailableError(f"no flows from the Hubble Observer at {target}: {code.name}: {details}", hint=hints.get(code))
