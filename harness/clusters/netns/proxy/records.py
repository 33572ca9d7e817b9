"""From the lines of an Envoy's access log to Hubble's L7 flows, as Cilium's agent makes them of its proxy's log: a request and its response.
Decides nothing: Envoy did."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from harness.clusters.netns.origins import Origins
from harness.clusters.netns.proxy import config
from harness.clusters.netns.redirect import ProxyPort
from harness.clusters.netns.snapshot import Snapshot
from harness.model.flow import EventType, FiveTuple, Flow, FlowVerdict, L7Record
from harness.model.traffic import Protocol

_REQUEST, _RESPONSE = 1, 2
_MS = 1_000_000


class Line(Struct, frozen=True):
    """What a line says of one request, or of a connection that was refused."""

    node: str
    port: ProxyPort
    fields: Mapping[str, Any]

    @property
    def http(self) -> bool:
        return self.fields["method"] is not None

    @property
    def denied(self) -> bool:
        details = self.fields["details"] or ""
        return bool(details.startswith(config.DENIED) or details == config.NO_CHAIN)


def flows(line: Line, snapshot: Snapshot, origins: Origins, now: int) -> Iterator[Flow]:
    """The flows of a line, of what was enforced in `snapshot`. A connection that passed unread has none: its packets tell of it."""
    if not line.http and not line.denied:
        return
    source, source_port = _ends(line.fields["from"])
    destination, port = _ends(line.fields["to"])
    origin = origins.find(source, source_port, destination, port)
    client, server = snapshot.party(line.node, source), snapshot.party(line.node, destination)
    request = Flow(
        time=now,
        verdict=FlowVerdict.DROPPED if line.denied else FlowVerdict.FORWARDED,
        five_tuple=FiveTuple(Protocol.TCP, client.address, origin.port if origin is not None else source_port, server.address, port),
        direction=line.port.direction,
        source=client.flow,
        destination=server.flow,
        event_type=EventType.L7,
        is_reply=False,
        node=f"node-{line.node}",
        proxy_port=line.port.number,
        l7=_record(line) if line.http else None,
    )
    yield request
    code = line.fields["code"]
    if request.l7 is not None and code:
        yield replace(
            request,
            verdict=FlowVerdict.FORWARDED,
            five_tuple=request.five_tuple.reversed(),
            source=request.destination,
            destination=request.source,
            is_reply=True,
            l7=replace(request.l7, type=_RESPONSE, code=code, latency_ns=int(line.fields["ms"] or 0) * _MS),
        )


def _record(line: Line) -> L7Record:
    fields = line.fields
    return L7Record(
        kind="http",
        type=_REQUEST,
        method=fields["method"],
        url=f"{fields['scheme'] or 'http'}://{fields['host'] or ''}{fields['path'] or ''}",
        protocol=fields["protocol"] or "",
    )


def _ends(text: str) -> tuple[bytes, int]:
    """An address as in packets, and its port."""
    address, _, port = text.rpartition(":")
    family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
    return socket.inet_pton(family, address.strip("[]")), int(port)
