"""What the names in expectations mean in a case: endpoints, externals, services, built-ins, addresses, DNS names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from harness.cases.case import EndpointSpec, ExternalSpec, Party, PartyKind, PortSpec, ServicePortSpec, ServiceSpec, Target
from harness.cases.grammar import ANY, GrammarError, SourceTerm, Span, TargetTerm
from harness.cases.hosts import is_address, is_dns_name, no_dns_name
from harness.cases.suggest import closest, did_you_mean
from harness.model.traffic import Protocol, Request, RequestKind

WORLD, HOST, REMOTE_NODE, KUBE_APISERVER, KUBE_DNS = "world", "host", "remote-node", "kube-apiserver", "kube-dns"
BUILTINS = (WORLD, HOST, REMOTE_NODE, KUBE_APISERVER, KUBE_DNS)
_SERVICE = "service/"
_ICMP = {RequestKind.ICMP: Protocol.ICMP, RequestKind.ICMP6: Protocol.ICMPV6}


class Names(Struct, frozen=True):
    """Everything a name can mean in one case."""

    namespace: str
    endpoints: Mapping[str, EndpointSpec]
    services: Mapping[str, ServiceSpec]
    externals: Mapping[str, ExternalSpec]

    def backends(self, service: ServiceSpec) -> tuple[EndpointSpec, ...]:
        """The endpoints a service selects."""
        wanted = service.selector.items()
        return tuple(each for each in self.endpoints.values() if each.namespace == service.namespace and wanted <= each.labels.items())

    def external_of(self, party: Party) -> ExternalSpec | None:
        """The declared external behind an external, an address or a DNS name."""
        match party.kind:
            case PartyKind.EXTERNAL:
                return self.externals[party.name]
            case PartyKind.ADDRESS:
                return next((each for each in self.externals.values() if party.name in each.addresses), None)
            case PartyKind.NAME:
                name = party.name.lower().removesuffix(".")
                return next((each for each in self.externals.values() if name in each.names), None)
            case _:
                return None

    def service_of(self, party: Party) -> ServiceSpec | None:
        """The service behind `service/NAME`, or behind its DNS name."""
        if party.kind is PartyKind.SERVICE:
            return self.services[party.name]
        if party.kind is PartyKind.NAME:
            parts = party.name.lower().removesuffix(".").removesuffix(".cluster.local").split(".")
            if len(parts) == 3 and parts[2] == "svc":
                return self.services.get(f"{parts[1]}/{parts[0]}")
        return None

    def known(self) -> tuple[str, ...]:
        """Every name an expectation may use, for hints."""
        services = tuple(self._service_word(each) for each in self.services.values())
        return (*self.endpoints, *self.externals, *services, *BUILTINS, ANY)

    def _service_word(self, service: ServiceSpec) -> str:
        return _SERVICE + (service.name if service.namespace == self.namespace else f"{service.namespace}/{service.name}")

    # Sources

    def sources(self, term: SourceTerm, others: frozenset[str]) -> Iterator[Party]:
        """The parties a source means. `others` are the endpoints of the other side, which `any` leaves out."""
        name = term.name
        if name == ANY and name not in self.endpoints:
            yield from self._any(term.span, others)
            return
        party = self.party(name, term.span)
        match party.kind:
            case PartyKind.SERVICE:
                raise _error("a service sends nothing", term.span, "name the endpoint that sends")
            case PartyKind.NAME:
                hint = f"name what sends it: {', '.join((*self.endpoints, WORLD))}"
                external = self.external_of(party)
                raise _error("a DNS name cannot be a source", term.span, f"write `{external.name}`" if external else hint)
            case PartyKind.BUILTIN if party.name == KUBE_DNS:
                raise _error("`kube-dns` cannot be a source: nothing can be sent from it", term.span)
            case _:
                yield party

    def _any(self, span: Span, others: frozenset[str]) -> Iterator[Party]:
        names = [name for name in self.endpoints if name not in others]
        if not names:
            raise _error("`any` is nobody here: every declared endpoint but the other side", span, "declare another endpoint")
        for name in names:
            yield Party(PartyKind.ENDPOINT, name)

    # Targets

    def targets(self, term: TargetTerm, request: Request | None, others: frozenset[str], *, undeclared: bool) -> Iterator[Target]:
        """The targets a term means, their ports checked against what is declared."""
        icmp = _ICMP.get(request.kind) if request else None
        if term.name != ANY or ANY in self.endpoints:
            party = self.party(term.name, term.span)
            self._check_request(party, term, request)
            yield self._target(party, term, request, icmp, undeclared=undeclared)
            return
        parties = tuple(self._any(term.span, others))
        if icmp is None and term.port is None:
            raise self._no_port(Party(PartyKind.ENDPOINT, parties[0].name), term)
        if icmp is None and not undeclared:
            declaring = tuple(each for each in parties if _matching(self.endpoints[each.name].ports, term))
            if not declaring:
                raise _error(f"no endpoint declares the port {_port(term)}", term.port_span, "a deny may say `undeclared: true`")
            parties = declaring
        for party in parties:
            yield self._target(party, term, request, icmp, undeclared=undeclared)

    def _target(self, party: Party, term: TargetTerm, request: Request | None, icmp: Protocol | None, *, undeclared: bool) -> Target:
        written = str(TargetTerm(party.name, term.port, term.protocol)) if term.name == ANY else str(term)
        if icmp is not None:
            if term.port is not None:
                raise _error("ICMP has no port", term.port_span, f"write `{term.name}`")
            return Target(party, None, icmp, written)
        if term.port is None:
            if request is not None and request.kind is RequestKind.LOOKUP:
                return Target(party, None, Protocol.UDP, written)
            raise self._no_port(party, term)
        if request is not None and request.kind is RequestKind.LOOKUP:
            return Target(party, _number(term), term.protocol or Protocol.UDP, written)
        port, protocol = self._declared(party, term, undeclared=undeclared)
        return Target(party, port, protocol, written)

    def _check_request(self, party: Party, term: TargetTerm, request: Request | None) -> None:
        if request is None:
            return
        if request.kind is RequestKind.LOOKUP and party != Party(PartyKind.BUILTIN, KUBE_DNS):
            raise _error(f"`lookup` asks `kube-dns`, not `{term.name}`", term.span, f"write `-> kube-dns lookup {request.name}`")
        if request.kind in _ICMP and party.kind is PartyKind.SERVICE:
            raise _error("a service's address answers no ping", term.span, "name the endpoint")

    def _no_port(self, party: Party, term: TargetTerm) -> GrammarError:
        declared = [f"{term}:{each}" for each in self._port_words(party)]
        hint = f"did you mean `{declared[0]}`?" if declared else f"write `{term}:PORT`"
        return _error(f"the target `{term}` needs a port", term.span, hint)

    def _port_words(self, party: Party) -> list[str]:
        service = self.service_of(party)
        ports = service.ports if service else self.ports_of(party)
        return [f"{each.port}" + ("" if each.protocol is Protocol.TCP else f"/{each.protocol}") for each in ports or ()]

    def ports_of(self, party: Party) -> tuple[PortSpec, ...] | None:
        """The ports that an endpoint or external declares; None for what declares none (built-ins)."""
        if party.kind is PartyKind.ENDPOINT:
            return self.endpoints[party.name].ports
        if party.kind is PartyKind.BUILTIN:
            return None
        external = self.external_of(party)
        return external.ports if external else ()

    def _declared(self, party: Party, term: TargetTerm, *, undeclared: bool) -> tuple[int, Protocol]:
        """The port's number and protocol."""
        service = self.service_of(party)
        ports = service.ports if service else self.ports_of(party)
        if ports is None:
            if not _is_number(term):
                raise _error(f"`{term.name}` declares no port names", term.port_span, "write the number")
            return _number(term), term.protocol or Protocol.TCP
        found = _matching(ports, term)
        if found is not None:
            if undeclared:
                raise _error(f"`{term.name}` declares the port {_port(term)}", term.port_span, "remove `undeclared: true`")
            return found
        if undeclared and service is None and _is_number(term):
            return _number(term), term.protocol or Protocol.TCP
        raise self._undeclared(party, term, service)

    def _undeclared(self, party: Party, term: TargetTerm, service: ServiceSpec | None) -> GrammarError:
        words = self._port_words(party)
        specs = service.ports if service else self.ports_of(party) or ()
        if not service and party.kind in (PartyKind.ADDRESS, PartyKind.NAME) and self.external_of(party) is None:
            what = "addresses" if party.kind is PartyKind.ADDRESS else "names"
            hint = f"externals: {{NAME: {{{what}: [{party.name}], ports: [{term.port}]}}}}, or `undeclared: true` on a deny"
            return _error(f"nobody declares `{term.name}`", term.span, hint)
        names = [each.name for each in specs if each.name]
        if not _is_number(term):
            return _error(
                f"`{term.name}` declares no port named `{term.port}`",
                term.port_span,
                did_you_mean(term.port or "", [*names, *words], noun="its ports"),
            )
        same = [each for each in specs if each.port == _number(term)]
        message = f"`{term.name}` declares no port {_port(term)}"
        if same:
            name = f"[{term.name}]" if ":" in term.name else term.name
            protocol = same[0].protocol
            return _error(message, term.port_span, f"it is {protocol}: write `{name}:{term.port}/{protocol}`")
        hint = f"its ports: {', '.join(words)}" if words else "it declares no ports"
        return _error(message, term.port_span, f"{hint}; a deny may say `undeclared: true`" if service is None else hint)

    # Both

    def party(self, name: str, span: Span) -> Party:
        """What a name means, in the order: declared, built-in, IP literal, DNS name. Raises at an unknown one."""
        if name in self.endpoints:
            return Party(PartyKind.ENDPOINT, name)
        if name in self.externals:
            return Party(PartyKind.EXTERNAL, name)
        if name.startswith(_SERVICE):
            return self._service(name, span)
        if name in BUILTINS:
            return Party(PartyKind.BUILTIN, name)
        if is_address(name):
            return Party(PartyKind.ADDRESS, str(ipaddress.ip_address(name)))
        if is_dns_name(name):
            return Party(PartyKind.NAME, name.lower().removesuffix("."))
        raise self._unknown(name, span)

    def _service(self, name: str, span: Span) -> Party:
        key = name.removeprefix(_SERVICE)
        full = key if "/" in key else f"{self.namespace}/{key}"
        if full in self.services:
            return Party(PartyKind.SERVICE, full)
        same = [each for each in self.services.values() if each.name == key]
        if len(same) == 1:
            hint = f"it is in namespace {same[0].namespace}: write `{self._service_word(same[0])}`"
        else:
            hint = did_you_mean(name, (self._service_word(each) for each in self.services.values()), noun="services")
        raise _error(f"unknown service `{key}`", span, hint)

    def _unknown(self, name: str, span: Span) -> GrammarError:
        service = next((each for each in self.services.values() if each.name == name), None)
        if service is not None:
            hint = f"did you mean the service: `{self._service_word(service)}`?"
        elif "/" in name and name.rpartition("/")[2] in self.endpoints:
            hint = f"endpoints are named without their namespace: `{name.rpartition('/')[2]}`"
        else:
            hint = did_you_mean(name, self.known(), noun="known")
            why = no_dns_name(name)
            if why:
                return _error(f"`{name}` is no DNS name", span, why)
        what = "name" if closest(name, self.externals) or closest(name, BUILTINS) else "endpoint"
        return _error(f"unknown {what} `{name}`", span, hint)


def _error(message: str, span: Span, hint: str | None = None) -> GrammarError:
    return GrammarError(message, span.start, span.length, hint)


def _port(term: TargetTerm) -> str:
    if not _is_number(term):
        return str(term.port)
    return f"{term.port}/{term.protocol or Protocol.TCP}"


def _is_number(term: TargetTerm) -> bool:
    return bool(term.port) and str(term.port).isdigit()


def _number(term: TargetTerm) -> int:
    if not _is_number(term):
        raise _error(f"`{term.name}` declares no port named `{term.port}`", term.port_span, "write the number")
    return int(term.port or 0)


def _matching(ports: Sequence[PortSpec | ServicePortSpec], term: TargetTerm) -> tuple[int, Protocol] | None:
    """The declared port that a term means: a number is TCP unless it says otherwise, a name is what it was declared as."""
    for each in ports:
        if _is_number(term):
            if each.port == _number(term) and each.protocol is (term.protocol or Protocol.TCP):
                return each.port, each.protocol
        elif each.name == term.port and term.protocol in {None, each.protocol}:
            return each.port, each.protocol
    return None
