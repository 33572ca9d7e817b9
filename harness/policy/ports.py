"""The ports that policies tell apart: every other port is treated as one of these. Not which of them a pod listens on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from msgspec import Struct

from harness.model.traffic import Protocol
from harness.policy.evaluate import Evaluator
from harness.policy.subjects import port_names
from harness.policy.table import ALL_PORTS


class PortClass(Struct, frozen=True, order=True):
    """Ports `first..last` (both included; ICMP: types) of a protocol, all of them treated alike by every policy."""

    protocol: Protocol
    first: int
    last: int

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{ports}/{self.protocol}"


def port_classes(
    evaluator: Evaluator, protocols: Iterable[Protocol] = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
) -> tuple[PortClass, ...]:
    """The classes of each protocol, in order; together they are all of its ports. Named ports count with each number that any pod gives them."""
    wanted = tuple(protocols)
    edges: dict[int, set[int]] = {each.number: {0, ALL_PORTS + 1} for each in wanted}
    numbers: dict[str, set[int]] = {}
    for pod in evaluator.state.pods:
        for (name, _), number in port_names(pod).items():
            numbers.setdefault(name, set()).add(number)
    for rule in evaluator.subjects.rules:
        for port in (each for item in rule.ports for each in item.ports):
            for number in numbers.get(port.name, ()) if port.name else (port.port,):
                for protocol in [port.protocol] if port.protocol else (Protocol.TCP, Protocol.UDP, Protocol.SCTP):
                    if protocol.number in edges and (number or port.end_port):
                        edges[protocol.number] |= {number, max(number, port.end_port) + 1}
    return tuple(
        PortClass(each, first, after - 1)
        for each in wanted
        for ordered in [sorted(edges[each.number])]
        for first, after in itertools.pairwise(ordered)
        if first <= ALL_PORTS
    )
