"""What travels between the tests' process and the lab's: frames of a length and a pickle, over a socket pair that nobody else has.

Both ends are the same code started by each other, so values go as they are. Events of probes come by the thousand: they go as bare tuples,
many to a frame.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Iterator, Mapping, Sequence
from copyreg import dispatch_table
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from harness.cases.case import Case, Serve
from harness.cases.resolver import PORTS, RESOLVER, with_resolver
from harness.cases.state import cluster_state, external_addresses
from harness.clusters.netns import speech
from harness.errors import ClusterError
from harness.model.cluster import ClusterState
from harness.model.flow import FiveTuple
from harness.model.probe import Ending, ProbeResult
from harness.model.traffic import PodRef, Protocol
from harness.probes.agent import AgentEvent, Bound

_LENGTH = struct.Struct("=I")
_RESULT = attrgetter(*ProbeResult.__struct_fields__)
_RESULT_ENDING = 1
_RESULT_TUPLE = 4


def _view(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(content)


class _Pickler(pickle.Pickler):
    # Read-only views of dictionaries do not pickle by themselves.
    dispatch_table = {**dispatch_table, MappingProxyType: lambda view: (_view, (dict(view),))}  # noqa: RUF012 -- pickle's own protocol


def encode(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    data = buffer.getvalue()
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """Cuts a stream of bytes into values."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield pickle.loads(frame)  # noqa: S301 -- from our own process, over a socket pair


class Call(Struct, frozen=True):
    """A request to the lab: a method of `Lab` by name. Number 0 asks for no answer."""

    number: int
    method: str
    arguments: tuple[Any, ...] = ()


class Answer(Struct, frozen=True):
    """The answer to a call: its value, or the error as (message, hint)."""

    number: int
    value: Any = None
    error: tuple[str, str | None] | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise ClusterError(self.error[0], hint=self.error[1])
        return self.value


class Events(Struct, frozen=True):
    """Events of probes, packed."""

    packed: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, events: Sequence[AgentEvent]) -> Events:
        return cls(tuple(map(_pack, events)))

    def unpacked(self) -> Iterator[AgentEvent]:
        return map(_unpack, self.packed)


def _pack(event: AgentEvent) -> tuple[Any, ...]:
    if isinstance(event, Bound):
        return (event.id, event.time, *_pack_tuple(event.five_tuple))
    values = list(_RESULT(event))
    values[_RESULT_ENDING] = event.ending.value
    values[_RESULT_TUPLE] = _pack_tuple(event.five_tuple) if event.five_tuple else None
    return tuple(values)


def _unpack(packed: tuple[Any, ...]) -> AgentEvent:
    if len(packed) == 7:
        return Bound(packed[0], _unpack_tuple(packed[2:]), packed[1])
    values = list(packed)
    values[_RESULT_ENDING] = _ENDINGS[values[_RESULT_ENDING]]
    if values[_RESULT_TUPLE] is not None:
        values[_RESULT_TUPLE] = _unpack_tuple(values[_RESULT_TUPLE])
    return ProbeResult(*values)


_ENDINGS = {ending.value: ending for ending in Ending}
_PROTOCOLS = {protocol.value: protocol for protocol in Protocol}


def _pack_tuple(five: FiveTuple) -> tuple[Any, ...]:
    return (five.protocol.value, five.source, five.source_port, five.destination, five.destination_port)


def _unpack_tuple(packed: Sequence[Any]) -> FiveTuple:
    return FiveTuple(_PROTOCOLS[packed[0]], *packed[1:])


# What is deployed


class Port(Struct, frozen=True):
    """A port to serve, of a pod or (`pod` is None) of the external of that name."""

    pod: PodRef | None
    external: str
    protocol: Protocol
    port: int
    serve: str


class Deployment(Struct, frozen=True):
    """What of a case the lab needs: the cluster's state, what is served, and the addresses of what is outside."""

    case: str
    state: ClusterState
    ports: tuple[Port, ...]
    externals: Mapping[str, tuple[str, ...]]
    audit: bool = False
    """Policy audit mode: what policy would drop is told and let through."""

    @classmethod
    def of(cls, case: Case) -> Deployment:
        """Ports that speak what the lab cannot serve yet are left closed; cases that need them ask for a feature that it lacks."""
        ports = [
            Port(pod, "", port.protocol, port.port, port.serve.value)
            for endpoint in case.endpoints.values()
            for pod in endpoint.pods()
            for port in endpoint.ports
        ]
        ports += [
            Port(None, external.name, port.protocol, port.port, port.serve.value)
            for external in case.externals.values()
            for port in external.ports
        ]
        state = with_resolver(case, cluster_state(case))
        if RESOLVER in (pod.ref for pod in state.pods):
            ports += [Port(RESOLVER, "", port.protocol, port.port, Serve.DNS.value) for port in PORTS]
        return cls(
            case=case.name,
            state=state,
            ports=tuple(port for port in ports if port.serve in speech.SERVED),
            externals=external_addresses(case),
            audit=case.asks_for("audit"),
        )
