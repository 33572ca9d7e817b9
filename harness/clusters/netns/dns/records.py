"""From what a DNS proxy heard to Hubble's L7 flows: a question, and its answer. Decides nothing."""

from __future__ import annotations

import socket

from harness.clusters.netns.dns.proxy import Heard
from harness.clusters.netns.snapshot import Snapshot
from harness.model.flow import EventType, FiveTuple, Flow, FlowVerdict, L7Record
from harness.model.traffic import Protocol

_REQUEST, _RESPONSE = 1, 2


def flow(heard: Heard, snapshot: Snapshot, now: int) -> Flow:
    """The flow, under what was enforced in `snapshot`. An answer goes the other way, and counts as a reply."""
    said = heard.said
    client, server = (snapshot.party(heard.node, _packed(end[0])) for end in (heard.client, heard.server))
    protocol = Protocol.TCP if heard.tcp else Protocol.UDP
    five = FiveTuple(protocol, client.address, heard.client[1], server.address, heard.server[1])
    source, destination = (server.flow, client.flow) if said.response else (client.flow, server.flow)
    return Flow(
        time=now,
        verdict=FlowVerdict.DROPPED if heard.denied else FlowVerdict.FORWARDED,
        five_tuple=five.reversed() if said.response else five,
        direction=heard.port.direction,
        source=source,
        destination=destination,
        event_type=EventType.L7,
        is_reply=said.response,
        node=f"node-{heard.node}",
        proxy_port=heard.port.number,
        l7=L7Record(
            kind="dns",
            type=_RESPONSE if said.response else _REQUEST,
            latency_ns=heard.ns,
            query=said.name,
            rcode=said.rcode,
            ips=said.addresses,
            qtypes=(said.kind,),
            ttl=said.ttl,
        ),
    )


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
