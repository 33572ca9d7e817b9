"""From expectations to checks: every source replica, every target replica, every family, with what to dial and what to ask the
model. Pure; sends nothing and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from harness.cases.case import Action, Case, Expectation, FamilyChoice, Placement, Serve
from harness.engine.ends import Door, End, Ends
from harness.model.probe import spoken
from harness.model.traffic import Family, Protocol, Request, RequestKind, Traffic
from harness.probes.plan import Exchange, Server


class Triple(Struct, frozen=True):
    """Source, target and port of a check, whatever the request: what a baseline states, and what is seen answered."""

    source: str
    target: str
    port: int | None
    protocol: Protocol

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}" + (f":{self.port}" if self.port is not None else "") + f"/{self.protocol}"


class Check(Struct, frozen=True, gc=False):
    """One source replica, one target replica, one family. `traffic` is what the model is asked, one per server that could answer.

    `triples` begins with the check's own; for a service its backends' follow. `fault`: why nothing can be sent (then unknown).
    """

    expectation: Expectation
    source: str
    target: str
    family: Family
    triples: tuple[Triple, ...]
    exchange: Exchange | None = None
    traffic: tuple[Traffic, ...] = ()
    fault: str = ""


def checks(
    case: Case,
    expectations: Sequence[Expectation],
    placement: Placement,
    *,
    families: frozenset[Family],
    timeout: float,
) -> tuple[Check, ...]:
    """The checks of a phase, in the order of its expectations. `families` are those the cluster has; others are left out."""
    ends = Ends(case, placement)
    return tuple(check for each in expectations for check in _of_expectation(ends, each, families, each.timeout or timeout))


def _of_expectation(ends: Ends, expectation: Expectation, families: frozenset[Family], timeout: float) -> Iterator[Check]:
    """An expectation is never silently empty: where it leads to nothing to send, that is a check that cannot pass."""
    wanted = [family for family in _families(expectation) if family in families]
    found = [
        _check(expectation, family, timeout, sender, door, ends.dns(family) if door.lookup else None)
        for family in wanted
        for source in expectation.sources
        for target in expectation.targets
        for sender, door in ends.pairs(source, target, family, expectation.request)
        if not ends.is_itself(sender, door)
    ]
    yield from found
    if wanted and not found:
        sources, targets = ", ".join(map(str, expectation.sources)), ", ".join(each.written for each in expectation.targets)
        nobody = Triple(sources, targets, None, expectation.targets[0].protocol)
        yield Check(expectation, sources, targets, wanted[0], (nobody,), fault="there is nothing to send: no source meets any target")


def _families(expectation: Expectation) -> tuple[Family, ...]:
    request = expectation.request
    if request is not None and request.kind is RequestKind.ICMP:
        return (Family.IPV4,)
    if request is not None and request.kind is RequestKind.ICMP6:
        return (Family.IPV6,)
    return expectation.family.families


def _check(
    expectation: Expectation,
    family: Family,
    timeout: float,
    sender: End,
    door: Door,
    dns: tuple[str, tuple[tuple[Server, End], ...]] | None,
) -> Check:
    suffix = f" {family}" if expectation.family is FamilyChoice.BOTH and family is Family.IPV6 else ""
    target = f"{door.end.label}{door.port_label}{suffix}"
    triple = Triple(sender.key, door.end.key, door.triple_port, door.protocol)
    triples = (triple, *(Triple(sender.key, key, port, door.protocol) for key, port in door.also))
    if fault := door.fault or _fault(sender, door, family, dns):
        return Check(expectation, sender.label, target, family, triples, fault=fault)
    exchange = _exchange(expectation, family, timeout, sender, door, dns)
    return Check(expectation, sender.label, target, family, triples, exchange, tuple(_traffic(expectation, family, sender, door)))


def _exchange(
    expectation: Expectation,
    family: Family,
    timeout: float,
    sender: End,
    door: Door,
    dns: tuple[str, tuple[tuple[Server, End], ...]] | None,
) -> Exchange:
    assert door.end.address is not None  # noqa: S101 -- `_fault` has just said so
    undeclared = expectation.undeclared and expectation.action is Action.DENY
    return Exchange(
        site=sender.site,
        address=door.end.address,
        port=door.port,
        protocol=door.protocol,
        family=family,
        timeout=timeout,
        servers=() if undeclared else tuple(server for server, _ in door.behind),
        request=expectation.request,
        serve=door.serve,
        source_address=sender.bind,
        lookup=_lookup(sender, door.lookup, family, timeout, dns) if door.lookup else None,
    )


def _fault(sender: End, door: Door, family: Family, dns: object) -> str:
    if sender.address is None:
        return f"{sender.label} has no {family} address here to send from"
    if door.end.address is None:
        return f"{door.end.label} has no {family} address here"
    if sender.pod is not None and door.end.pod is not None and sender.pod.ref == door.end.pod.ref:
        return f"{sender.label} would talk to itself, over loopback: no policy is asked there"
    if door.lookup and dns is None:
        return f"there is no DNS service here to look up {door.lookup}"
    return ""


def _lookup(
    sender: End, name: str, family: Family, timeout: float, dns: tuple[str, tuple[tuple[Server, End], ...]] | None
) -> Exchange | None:
    if dns is None:
        return None
    address, behind = dns
    return Exchange(
        site=sender.site,
        address=address,
        port=53,
        protocol=Protocol.UDP,
        family=family,
        timeout=timeout,
        servers=tuple(server for server, _ in behind),
        request=Request(RequestKind.LOOKUP, name=name),
        serve=Serve.DNS.value,
        source_address=sender.bind,
    )


def _traffic(expectation: Expectation, family: Family, sender: End, door: Door) -> Iterator[Traffic]:
    """What the model is asked: after service translation, so the backends' own ports."""
    reached = [(server.port, end) for server, end in door.behind] or [(door.port, door.end)]
    for port, end in reached:
        yield Traffic(
            source=sender.peer(end.node),
            destination=end.peer(sender.node),
            protocol=door.protocol,
            port=port,
            request=spoken(expectation.request, door.protocol, door.serve),
            family=family,
        )
