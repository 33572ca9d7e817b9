"""What a user answers for outside a cluster that is not ours: a file that maps a case's externals to addresses and TCP ports there. Whether a
case can run with it is pure; nothing outside is ever contacted that the file does not name."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, field
from msgspec.structs import replace

from harness.cases.case import Case, Expectation, Party, PartyKind, Target
from harness.cases.names import WORLD
from harness.errors import Location, UsageError
from harness.model.traffic import Family, PodRef, Protocol, RequestKind

WITNESS = PodRef("", "witness")
"""The pod, in a namespace that no policy of the case selects, that shows that what is outside is alive."""
_OF_WORLD = Party(PartyKind.BUILTIN, WORLD)
_HINT = "write `NAME: {addresses: [203.0.113.10], ports: [443]}`, NAME as the cases call it (`world` for any)"


class Mapped(Struct, frozen=True):
    """One external, as it really is."""

    addresses: tuple[str, ...]
    ports: frozenset[int]


class Externals(Struct, frozen=True):
    """The file, read. `file` is how messages call it."""

    file: str = ""
    mapped: Mapping[str, Mapped] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> Externals:
        """Raises `UsageError` with the place of a mistake; '' is no file."""
        if not path:
            return cls()
        try:
            node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except OSError as error:
            raise UsageError(f"{Path(path).name} cannot be read: {error.strerror}", hint=_HINT) from None
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"{Path(path).name} is no YAML: {' '.join(str(error).split())}", hint=_HINT) from None
        if not isinstance(node, yaml.MappingNode) or not node.value:
            raise UsageError(f"{Path(path).name} maps nothing", hint=_HINT)
        return cls(Path(path).name, {str(key.value): _mapped(path, key, value) for key, value in node.value})

    def lacking(self, case: Case) -> str:
        """Why the case's externals cannot be had; '' where they can."""
        return next(self._lacks(case), "")

    def _lacks(self, case: Case) -> Iterator[str]:
        for name, spec in case.externals.items():
            if name not in self.mapped:
                yield f"`{name}` is not in {self.file}"
            elif missing := set(spec.addresses) - set(self.mapped[name].addresses):
                yield f"the case's `{name}` is {min(missing)}, which {self.file} does not say it is"
        for phase in case.phases:
            for expectation in phase.expectations:
                for target in expectation.targets:
                    yield from self._lacks_target(case, expectation, target)

    def _lacks_target(self, case: Case, expectation: Expectation, target: Target) -> Iterator[str]:
        name = _name(case, target.party)
        if name is None:
            return
        if not name:
            yield f"`{target.written}` belongs to no external of the case"
            return
        mapped = self.mapped.get(name)
        icmp = expectation.request is not None and expectation.request.kind in (RequestKind.ICMP, RequestKind.ICMP6)
        if mapped is None:
            yield f"`{name}` is not in {self.file}"
        elif icmp or target.protocol is not Protocol.TCP:
            yield f"`{target.written}`: only TCP is asked of what is outside a cluster that is not ours"
        elif target.port not in mapped.ports:
            yield f"`{target.written}`: {self.file} does not say that `{name}` has this port"
        elif absent := {str(family) for family in expectation.family.families} - {str(Family.of(each)) for each in mapped.addresses}:
            yield f"`{name}` has no {min(absent)} address in {self.file}"

    def serves(self, case: Case) -> bool:
        """Whether anything outside is asked for, and can be had."""
        asked = (target.party for phase in case.phases for each in phase.expectations for target in each.targets)
        outside = bool(case.externals) or any(_name(case, party) is not None for party in asked)
        return bool(self.mapped) and outside and not self.lacking(case)

    def addresses(self, case: Case) -> Mapping[str, tuple[str, ...]]:
        """The addresses of the case's externals and of the world, IPv4 first: as the case says, else one of each family."""
        found = {
            name: spec.addresses or _one_each(self.mapped[name].addresses) for name, spec in case.externals.items() if name in self.mapped
        }
        world = {"world": _one_each(self.mapped[WORLD].addresses)} if WORLD in self.mapped else {}
        return {**{f"external:{name}": addresses for name, addresses in found.items()}, **world}

    def applied(self, case: Case) -> Case:
        """The case with the externals that have none given their addresses, for the policy model."""
        found = self.addresses(case)
        return replace(
            case,
            externals={
                name: replace(spec, addresses=found.get(f"external:{name}", spec.addresses)) for name, spec in case.externals.items()
            },
        )

    def vouched(self) -> frozenset[tuple[str, int]]:
        """Every address and port that the user answers for."""
        return frozenset((address, port) for each in self.mapped.values() for address in each.addresses for port in each.ports)


def _name(case: Case, party: Party) -> str | None:
    """How the file calls a party, '' for an address that it cannot call by a name; None for what is not outside."""
    if party == _OF_WORLD:
        return WORLD
    if party.kind is PartyKind.EXTERNAL:
        return party.name
    if party.kind is PartyKind.NAME:
        wanted = party.name.rstrip(".").lower()
        return next((name for name, spec in case.externals.items() if wanted in (each.rstrip(".").lower() for each in spec.names)), None)
    if party.kind is PartyKind.ADDRESS:
        return next((name for name, spec in case.externals.items() if party.name in spec.addresses), "")
    return None


def _one_each(addresses: tuple[str, ...]) -> tuple[str, ...]:
    first: dict[Family, str] = {}
    for address in addresses:
        first.setdefault(Family.of(address), address)
    return tuple(first[family] for family in (Family.IPV4, Family.IPV6) if family in first)


def _mapped(path: str, key: Any, node: Any) -> Mapped:
    fields = {str(name.value): value for name, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    if fields.keys() != {"addresses", "ports"}:
        raise _wrong(path, key, f"`{key.value}` needs `addresses` and `ports`, and nothing else")
    addresses, ports = (_items(path, key, name, fields[name]) for name in ("addresses", "ports"))
    for each in addresses:
        try:
            ipaddress.ip_address(each.value)
        except ValueError:
            raise _wrong(path, each, f"`{each.value}` is no IP address") from None
    for each in ports:
        if not each.value.isdigit() or not 0 < int(each.value) < 65536:
            raise _wrong(path, each, f"`{each.value}` is no port")
    return Mapped(tuple(str(ipaddress.ip_address(each.value)) for each in addresses), frozenset(int(each.value) for each in ports))


def _items(path: str, key: Any, name: str, node: Any) -> list[Any]:
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    if not items or not all(isinstance(each, yaml.ScalarNode) for each in items):
        raise _wrong(path, key, f"`{name}` of `{key.value}` must be a list of at least one")
    return list(items)


def _wrong(path: str, node: Any, message: str) -> UsageError:
    mark = node.start_mark
    return UsageError(message, location=Location(path, mark.line + 1, mark.column + 1), hint=_HINT)
