"""`otherwise`: the closed world. Every source, target and declared port that no expectation of the phase names gets one of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from harness.cases.case import Action, EndpointSpec, Expectation, Party, PartyKind, PortSpec, ServicePortSpec, ServiceSpec, Target
from harness.cases.names import Names
from harness.errors import Location
from harness.model.traffic import Protocol

Triple: TypeAlias = tuple[str, str, int, Protocol]
"""Source endpoint, target endpoint or external, and the target's own port."""


def otherwise(action: Action, written: Iterable[Expectation], names: Names, location: Location) -> tuple[Expectation, ...]:
    """One expectation for each target and port, with the sources that no written expectation names for it.

    Sources are endpoints that are pods; targets are endpoints and externals with their declared ports. Host endpoints as sources,
    ICMP and built-ins are left out, and nobody is asked to reach itself.
    """
    named = set(_named(written, names))
    return tuple(_remaining(action, named, names, location))


def _remaining(action: Action, named: set[Triple], names: Names, location: Location) -> Iterator[Expectation]:
    sources = [each.name for each in names.endpoints.values() if not each.host_network]
    for party, port in _targets(names):
        left = [each for each in sources if each != party.name and (each, party.name, port.port, port.protocol) not in named]
        if not left:
            continue
        written = f"{party.name}:{port.port}" + ("" if port.protocol is Protocol.TCP else f"/{port.protocol}")
        yield Expectation(
            action=action,
            text=f"{', '.join(left)} -> {written}",
            sources=tuple(Party(PartyKind.ENDPOINT, each) for each in left),
            targets=(Target(party, port.port, port.protocol, written),),
            location=location,
            closed_world=True,
        )


def _targets(names: Names) -> Iterator[tuple[Party, PortSpec]]:
    for endpoint in names.endpoints.values():
        for port in endpoint.ports:
            yield Party(PartyKind.ENDPOINT, endpoint.name), port
    for external in names.externals.values():
        for port in external.ports:
            yield Party(PartyKind.EXTERNAL, external.name), port


def _named(written: Iterable[Expectation], names: Names) -> Iterator[Triple]:
    """What expectations name, whatever the request. A service names its backends' ports."""
    for expectation in written:
        reached = [triple for target in expectation.targets for triple in _reached(target, names)]
        for source in expectation.sources:
            if source.kind is PartyKind.ENDPOINT:
                for target, port, protocol in reached:
                    yield source.name, target, port, protocol


def _reached(target: Target, names: Names) -> Iterator[tuple[str, int, Protocol]]:
    if target.port is None:
        return
    service = names.service_of(target.party)
    if service is not None:
        yield from _backend_ports(service, target, names)
    elif target.party.kind is PartyKind.ENDPOINT:
        yield target.party.name, target.port, target.protocol
    else:
        external = names.external_of(target.party)
        if external is not None:
            yield external.name, target.port, target.protocol


def _backend_ports(service: ServiceSpec, target: Target, names: Names) -> Iterator[tuple[str, int, Protocol]]:
    for port in service.ports:
        if port.port == target.port and port.protocol is target.protocol:
            for backend in names.backends(service):
                found = target_port(port, backend)
                if found is not None:
                    yield backend.name, found.port, found.protocol


def target_port(port: ServicePortSpec, backend: EndpointSpec) -> PortSpec | None:
    """The declared port of a backend that a service port leads to."""
    return next((each for each in backend.ports if each.protocol is port.protocol and port.target_port in (each.port, each.name)), None)
