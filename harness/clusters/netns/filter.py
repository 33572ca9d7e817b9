"""The packet filter of one node: holds what is in force and writes only what differs, as one transaction. The text is `ruleset`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from harness.clusters.netns import redirect, ruleset
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.nftables import Ruleset
from harness.clusters.netns.redirect import ProxyPorts
from harness.clusters.netns.ruleset import Compiled, Forwarding, Range
from harness.errors import ClusterError
from harness.model.traffic import Direction
from harness.policy.map import DirectionPolicy, EndpointPolicy

_BINDINGS = {Direction.EGRESS: "from_pod", Direction.INGRESS: "to_pod"}
_HOST_BINDINGS = {Direction.EGRESS: "from_host", Direction.INGRESS: "to_host"}
_REDIRECTS = ("redirect_from", "redirect_to4", "redirect_to6")


class Wanted(Struct, frozen=True):
    """What a node must enforce. `peers` are exact addresses and their identities, `ranges` the prefixes, `pods` the policy by link."""

    revision: int
    peers: Mapping[str, int]
    ranges: Mapping[str, int]
    pods: Mapping[str, EndpointPolicy]
    addresses: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Those of each of `pods`, by link."""
    host: EndpointPolicy | None = None
    """The host firewall's policy, which asks for no proxy; None where there is none."""


@dataclass(slots=True)
class _State:
    peers: dict[str, dict[str, str]] = field(default_factory=lambda: {"peer4": {}, "peer6": {}})
    ranges: dict[str, tuple[Range, ...]] = field(default_factory=lambda: {"range4": (), "range6": ()})
    policies: dict[Compiled, str] = field(default_factory=dict)
    bindings: dict[str, dict[str, str]] = field(
        default_factory=lambda: {name: {} for name in (*_BINDINGS.values(), *_HOST_BINDINGS.values(), *_REDIRECTS)}
    )


class NodeFilter:
    """Raises ClusterError where the kernel refuses a change; then what was in force still is."""

    def __init__(self, namespace: Namespace, owner: str, ports: ProxyPorts, *, ipv6: bool) -> None:
        self._ruleset = Ruleset(namespace, owner)
        self._ipv6 = ipv6
        self._ports = ports
        self._itself: list[tuple[str, str]] = []
        self._redirecting = False
        self._made_ports: set[int] = set()
        self._made_targets: set[int] = set()
        self._state = _State()
        self._abandoned: dict[str, Compiled] = {}
        self._names = 0
        self._services = 0
        self._ruleset.run("\n".join((ruleset.base(ipv6=ipv6), *ruleset.labels(0))))

    def change(self, wanted: Wanted) -> None:
        """Enforce this from now on; packets see the whole change or nothing of it.

        The kernel is not quite that strict with what a transaction creates or deletes: a packet on its way may be sent to a new chain and
        find it empty, or look into a map that is gone. So new chains and maps are made before, where nobody is sent to them yet, and
        old ones are deleted with the next change, when no packet is left in them.
        """
        state = _State()
        made: list[str] = []
        first: list[str] = []
        for name, version in (("peer4", "."), ("peer6", ":")):
            state.peers[name] = {address: str(identity) for address, identity in wanted.peers.items() if version in address}
            first.extend(ruleset.change_elements(name, self._state.peers[name], state.peers[name]))
        for name, number in (("range4", 4), ("range6", 6)):
            state.ranges[name] = ruleset.disjoint(wanted.ranges, number)
            if state.ranges[name] != self._state.ranges[name]:
                first.extend(ruleset.replace_ranges(name, state.ranges[name]))
        bound: dict[int, Compiled] = {}
        for direction, binding in _BINDINGS.items():
            for link, endpoint in wanted.pods.items():
                policy: DirectionPolicy = getattr(endpoint, direction.value)
                if not policy.enforced:
                    continue
                # Equal endpoints share their objects, so each is compiled once.
                content = bound.get(id(policy))
                if content is None or content.direction is not direction:
                    content = bound[id(policy)] = self._compiled(policy, direction, made)
                name = self._named(content, state, made)
                state.bindings[binding][f'"{link}"'] = f"jump {name}"
                if content.redirects and direction is Direction.EGRESS:
                    state.bindings["redirect_from"][f'"{link}"'] = f"jump {name}_redirect"
                elif content.redirects:
                    for address in wanted.addresses[link]:
                        state.bindings["redirect_to6" if ":" in address else "redirect_to4"][address] = f"jump {name}_redirect"
        if wanted.host is not None:
            for direction, binding in _HOST_BINDINGS.items():
                policy = getattr(wanted.host, direction.value)
                if policy.enforced:
                    name = self._named(ruleset.compiled(policy, direction), state, made)
                    state.bindings[binding] = dict.fromkeys(("ipv4", "ipv6"), f"jump {name}")
        for binding, before in self._state.bindings.items():
            first.extend(ruleset.change_elements(binding, before, state.bindings[binding]))
        if made:
            self._ruleset.run("\n".join(made))
        last = [command for name, content in self._abandoned.items() for command in _delete(name, content)]
        try:
            relabelled = (*ruleset.labels(wanted.revision), *(redirect.labels(wanted.revision) if self._redirecting else ()))
            self._ruleset.run("\n".join((*first, *last, *relabelled)))
        except ClusterError:
            self._abandoned |= {name: content for content, name in state.policies.items() if content not in self._state.policies}
            raise
        self._abandoned = {name: content for content, name in self._state.policies.items() if content not in state.policies}
        self._state = state

    def redirect(self, own_ports: tuple[int, int]) -> None:
        """Prepare to redirect connections to proxies, which send from `own_ports`. Idempotent; without it, nothing that asks for a proxy may be wanted."""
        if not self._redirecting:
            self._ruleset.run(
                "\n".join((*redirect.frame(own_ports, ipv6=self._ipv6), *redirect.labels(0), *self._add_itself(self._itself)))
            )
            self._redirecting = True

    def _compiled(self, policy: DirectionPolicy, direction: Direction, commands: list[str]) -> Compiled:
        """The policy's maps and redirects; the way to each proxy port is added where it is new."""
        redirects: list[tuple[str, int]] = []
        for identity, interval, port in self._ports.of(policy, direction):
            if port.target not in self._made_targets:
                self._made_targets.add(port.target)
                commands.extend(redirect.add_target(port.target))
            if port.id not in self._made_ports:
                self._made_ports.add(port.id)
                commands.extend(redirect.add_port(port))
            redirects.append((f"{identity} . {interval.protocol} . {port.target}", port.id))
        return replace(ruleset.compiled(policy, direction), redirects=tuple(redirects))

    def _named(self, content: Compiled, state: _State, commands: list[str]) -> str:
        """The chain of this content, added where there is none yet."""
        if content not in state.policies:
            name = self._state.policies.get(content)
            if name is None:
                self._names += 1
                name = f"policy_{self._names}"
                commands.extend(ruleset.add_policy(name, content))
                if content.redirects:
                    commands.extend(redirect.add_policy(name, content.direction, content.redirects))
            state.policies[content] = name
        return state.policies[content]

    def serve(self, forwardings: Sequence[Forwarding]) -> None:
        """These are the services from now on."""
        if not forwardings and not self._services:
            return
        self._ruleset.run("\n".join((*ruleset.delete_services(self._services), *ruleset.add_services(forwardings))))
        self._services = len(forwardings)

    def hairpin(self, slots: Mapping[str, Sequence[str]]) -> None:
        """These links lead to pods, with these addresses, that may be sent back to themselves by a service."""
        if slots:
            listed = ", ".join(f'"{link}" . "{link}"' for link in slots)
            new = [(link, address) for link, own in slots.items() for address in own]
            commands = self._add_itself(new) if self._redirecting else ()
            self._ruleset.run("\n".join((f"add element {ruleset.TABLE} hairpin {{ {listed} }}", *commands)))
            self._itself.extend(new)

    def _add_itself(self, slots: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        return tuple(
            f'add element {ruleset.TABLE} itself{6 if ":" in address else 4} {{ "{link}" . {address} }}' for link, address in slots
        )

    def listed(self) -> str:
        """The whole filter as `nft list` prints it, for people and tests."""
        return self._ruleset.run(f"list table {ruleset.TABLE}")

    def close(self) -> None:
        self._ruleset.close()


def _delete(name: str, content: Compiled) -> Iterator[str]:
    if content.redirects:
        yield from redirect.delete_policy(name)
    yield from ruleset.delete_policy(name, content)
