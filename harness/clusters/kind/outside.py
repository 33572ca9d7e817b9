"""What cases call external, for a kind cluster: one container beside its nodes, on the same network, that has every address and serves every port
that a case asks for. So nothing outside this machine is ever asked. Not DNS: what has names gets addresses of its own here, and
`harness.clusters.kubernetes.dns_entries` tells the cluster's DNS."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.cases.case import Case, PartyKind
from harness.cases.names import WORLD
from harness.clusters.kind.nodes import names
from harness.clusters.kind.program import DOCKER
from harness.clusters.kind.record import Records
from harness.clusters.kubernetes.corefile import Entry
from harness.clusters.kubernetes.externals import Externals, Mapped
from harness.clusters.kubernetes.lookups import outside, plain
from harness.clusters.kubernetes.objects import server_text
from harness.model.traffic import Family, Protocol

_NAMED_V4 = ipaddress.IPv4Network("198.18.0.0/15")
_NAMED_V6 = ipaddress.IPv6Network("2001:db8:18::/64")
"""For tests of networks (RFC 2544) and for documentation (RFC 3849): nobody else has them."""
_TTL = 30
"""Seconds for which a name holds where its case does not say; the lab's too."""
_LONGEST_TTL = 65535
"""What CoreDNS's `hosts` takes."""
_LABEL = "policy-harness/outside-of"
_NETWORK = "kind"
_STARTS_WITHIN = 300.0
_QUICK = 60.0
_ADDRESSES = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
_IDLE = "import signal; signal.pause()"


@dataclass(slots=True)
class Outside:
    """The container of one cluster, which its runs share. Addresses and ports are only ever added: they are the same for all."""

    name: str
    image: str
    records: Records
    _own: tuple[str, ...] = ()
    _nodes: tuple[str, ...] = ()
    _has: set[str] = field(default_factory=set)
    _serves: set[int] = field(default_factory=set)

    def externals(self, case: Case) -> Externals:
        """Where what the case calls external is, after seeing to it that it is there. ClusterError where that cannot be had."""
        wanted = asked(case)
        if not wanted:
            return Externals()
        with self.records.lock(f"{self.name}-outside"):
            self._start()
            mapped = {name: Mapped(addresses or self._own, ports) for name, (addresses, ports) in wanted.items()}
            self._address({address for each in mapped.values() for address in each.addresses} - {*self._own})
            self._serve({port for each in mapped.values() for port in each.ports})
        return Externals(f"the kind cluster {self.name}", mapped)

    @property
    def _container(self) -> str:
        return f"{self.name}-outside"

    def _start(self) -> None:
        if self._own:
            return
        if not _containers(self.name):
            words = ["--network", _NETWORK, "--cap-add", "NET_ADMIN", "--init", "--label", f"{_LABEL}={self.name}"]
            DOCKER.run("run", "-d", "--name", self._container, *words, self.image, "python3", "-c", _IDLE, within=_STARTS_WITHIN)
        own = DOCKER.run("inspect", "--format", _ADDRESSES, self._container, within=_QUICK).split()
        self._nodes, self._own = names(self.name), tuple(own)

    def _address(self, addresses: Iterable[str]) -> None:
        """The container has them, and every node knows the way."""
        for address in sorted({*addresses} - self._has):
            family = Family.of(address)
            option, bits = ("-4", 32) if family is Family.IPV4 else ("-6", 128)
            way = next((each for each in self._own if Family.of(each) is family), "")
            if not way:
                continue  # the cluster's network lacks that family, and so does the cluster: no such probe is sent
            DOCKER.run("exec", self._container, "ip", option, "addr", "replace", f"{address}/{bits}", "dev", "lo", within=_QUICK)
            for node in self._nodes:
                DOCKER.run("exec", node, "ip", option, "route", "replace", f"{address}/{bits}", "via", way, within=_QUICK)
            self._has.add(address)

    def _serve(self, ports: Iterable[int]) -> None:
        """By the program that serves in pods too. Where another process of the run serves a port already, this one's ends at once."""
        for port in sorted({*ports} - self._serves):
            serve = json.dumps([{"port": port, "protocol": "TCP", "serve": "auto"}])
            what = ["-e", "HARNESS_NAME=outside", "-e", f"HARNESS_POD=outside-{port}", "-e", f"HARNESS_PORTS={serve}"]
            DOCKER.run("exec", "-d", *what, self._container, "python3", "-c", server_text(), within=_QUICK)
            self._serves.add(port)


def remove(name: str) -> None:
    """The container of a cluster. No error where there is none."""
    if found := _containers(name):
        DOCKER.run("rm", "-f", *found, within=_QUICK)


def _containers(name: str) -> list[str]:
    return DOCKER.run("ps", "-a", "-q", "--filter", f"label={_LABEL}={name}", within=_QUICK).split()


def entries(case: Case, externals: Externals) -> tuple[Entry, ...]:
    """What the cluster's DNS must know of what is outside, for the names that the case asks for."""
    ttls = {name: min(spec.ttl or _TTL, _LONGEST_TTL) for spec in case.externals.values() for name in map(plain, spec.names)}
    return tuple(Entry(name, tuple(sorted(found)), ttls[name]) for name, found in sorted(outside(case, externals).items()))


def own_addresses(name: str) -> tuple[str, ...]:
    """Where what has this name (first) and no address is, in each case alike: two names that lead to one address would open each other."""
    digest = hashlib.sha256(plain(name).encode()).digest()
    return str(_NAMED_V4[int.from_bytes(digest[:4], "big") % _NAMED_V4.num_addresses]), str(_NAMED_V6[int.from_bytes(digest[:8], "big")])


def asked(case: Case) -> Mapping[str, tuple[tuple[str, ...], frozenset[int]]]:
    """Addresses (() for any) and TCP ports of each external of a case, and of `world` where it is a target."""
    found = {
        name: (
            tuple(spec.addresses) or (own_addresses(spec.names[0]) if spec.names else ()),
            frozenset(port.port for port in spec.ports if port.protocol is Protocol.TCP),
        )
        for name, spec in case.externals.items()
    }
    world = {
        target.port
        for phase in case.phases
        for expectation in phase.expectations
        for target in expectation.targets
        if target.party.kind is PartyKind.BUILTIN and target.party.name == WORLD and target.protocol is Protocol.TCP and target.port
    }
    return {**found, WORLD: ((), frozenset(world))} if world else found
