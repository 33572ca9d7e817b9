"""L4 filters: the rules of one endpoint and direction, merged by port and peer selector as Cilium merges them.

A merge that cannot be is a `MergeConflict`: Cilium then computes no policy for the endpoint at all. Sources: pkg/policy/rule.go
(mergePortProto) and pkg/policy/l4.go (createL4Filter, addL4Filter).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from harness.model.traffic import Protocol
from harness.model.verdict import RuleRef
from harness.policy.entities import ALL
from harness.policy.rules import (
    AuthMode,
    DNSRule,
    HTTPRule,
    Parser,
    PeerSelector,
    PortRule,
    Rule,
    TLSContext,
)

ANY_PROTOCOL = 0
_ANY = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_ALL_NAMES = DNSRule(match_pattern="*")
_ALL_REQUESTS = HTTPRule()

_T = TypeVar("_T")

FilterKey: TypeAlias = tuple[str, int, int, int]
"""Name (or ''), port, end port, protocol number. A named port's end port is not part of its key."""


class MergeConflict(Exception):  # noqa: N818 - a condition of the policies, turned into a verdict; it never leaves this package
    """Two rules for the same peers and port cannot both be."""


class SelectorPolicy(Struct, frozen=True):
    """What a filter says to the peers of one selector. `rules` are the rules it was merged from."""

    deny: bool
    rules: tuple[RuleRef, ...]
    parser: Parser = Parser.NONE
    parser_name: str = ""
    """Tells proxylib parsers apart."""
    priority: int = 0
    """Of the redirect; the lower wins, 0 is none."""
    listener: str = ""
    auth: AuthMode | None = None
    http: tuple[HTTPRule, ...] = ()
    dns: tuple[DNSRule, ...] = ()
    server_names: frozenset[str] = frozenset()
    terminating_tls: TLSContext | None = None
    originating_tls: TLSContext | None = None

    @property
    def plain(self) -> bool:
        """No proxy: an allow without condition (authentication aside), or a deny."""
        return self.parser is Parser.NONE

    @property
    def has_l7_rules(self) -> bool:
        return bool(self.http or self.dns)

    def same_as(self, other: SelectorPolicy) -> bool:
        return replace(self, rules=()) == replace(other, rules=())


class Filter(Struct):
    """One port (or range, or named port) and protocol, with a policy per peer selector."""

    name: str
    port: int
    end_port: int
    protocol: int
    policies: dict[PeerSelector, SelectorPolicy] = field(default_factory=dict)


def build_filters(rules: Iterable[Rule], *, default_deny: bool) -> list[Filter]:
    """The filters of rules in Cilium's order. `default_deny` is the endpoint's, in this direction. May raise MergeConflict."""
    filters: dict[FilterKey, Filter] = {}
    for rule in rules:
        if rule.peers is None:
            continue
        if not rule.ports:
            if rule.peers:
                plain = SelectorPolicy(rule.deny, (rule.ref,), auth=rule.auth)
                _add(filters, ("", 0, 0, ANY_PROTOCOL), 0, rule.peers, plain)
            continue
        peers = rule.peers or (ALL,)
        for port_rule in rule.ports:
            for port in port_rule.ports:
                for protocol in _ANY if port.protocol is None else (port.protocol,):
                    end = 0 if port.name else port.end_port
                    key = (port.name, port.port, end, protocol.number)
                    policy = _selector_policy(rule, port_rule, protocol, default_deny=default_deny)
                    _add(filters, key, port.end_port, peers, policy)
    return list(filters.values())


def _selector_policy(rule: Rule, port_rule: PortRule, protocol: Protocol, *, default_deny: bool) -> SelectorPolicy:
    parser = port_rule.parser
    if parser in (Parser.HTTP, Parser.KAFKA, Parser.PROXYLIB) and protocol is not Protocol.TCP:
        parser = Parser.NONE
    if parser is Parser.NONE:
        return SelectorPolicy(rule.deny, (rule.ref,), auth=rule.auth)
    http, dns = port_rule.http, port_rule.dns
    if not default_deny and not rule.deny:
        # Where nothing is denied by default, L7 rules may only watch.
        http = _with(http, _ALL_REQUESTS) if http else http
        dns = _with(dns, _ALL_NAMES) if dns else dns
    priority, listener = parser.value, ""
    if port_rule.listener is not None:
        wanted = port_rule.listener
        namespace = rule.ref.policy.namespace
        if wanted.config_kind == "CiliumEnvoyConfig" and not namespace:
            raise MergeConflict(f'Listener "{wanted.name}" in CCNP can not use Kind CiliumEnvoyConfig ({rule.ref})')
        namespace = "" if wanted.config_kind == "CiliumClusterwideEnvoyConfig" else namespace
        listener = f"{namespace}/{wanted.config_name}/{wanted.name}"
        priority = wanted.priority or priority
    return SelectorPolicy(
        deny=rule.deny,
        rules=(rule.ref,),
        parser=parser,
        parser_name=port_rule.other_l7 or parser.name,
        priority=priority,
        listener=listener,
        auth=rule.auth,
        http=http,
        dns=dns,
        server_names=frozenset(port_rule.server_names),
        terminating_tls=port_rule.terminating_tls,
        originating_tls=port_rule.originating_tls,
    )


def _add(filters: dict[FilterKey, Filter], key: FilterKey, end_port: int, peers: Iterable[PeerSelector], policy: SelectorPolicy) -> None:
    found = filters.get(key)
    if found is None:
        name, port, _, protocol = key
        found = filters[key] = Filter(name, port, end_port, protocol)
    for peer in peers:
        existing = found.policies.get(peer)
        found.policies[peer] = policy if existing is None else _merge(existing, policy)


def _merge(existing: SelectorPolicy, new: SelectorPolicy) -> SelectorPolicy:
    rules = tuple(dict.fromkeys((*existing.rules, *new.rules)))
    if existing.same_as(new):
        return replace(existing, rules=rules)
    if existing.deny:
        return existing
    if new.deny:
        return new
    merged = _merge_redirect(existing, new)
    auth = _one_of(existing.auth, new.auth, "authentication types", rules)
    terminating = _one_of(existing.terminating_tls, new.terminating_tls, "terminating TLS contexts", rules)
    originating = _one_of(existing.originating_tls, new.originating_tls, "originating TLS contexts", rules)
    server_names = existing.server_names | new.server_names
    if server_names and existing.has_l7_rules and terminating is None:
        raise MergeConflict(f"cannot merge L7 rules with SNI filtering without TLS termination ({_list(rules)})")
    http = _with(existing.http, *new.http)
    dns = _with(existing.dns, *new.dns)
    if existing.has_l7_rules != new.has_l7_rules:
        # Who asked for no L7 rule allows everything: an explicit wildcard keeps that true.
        http = _with(http, _ALL_REQUESTS) if http else http
        dns = _with(dns, _ALL_NAMES) if dns else dns
    return replace(
        merged,
        rules=rules,
        auth=auth,
        terminating_tls=terminating,
        originating_tls=originating,
        server_names=server_names,
        http=http,
        dns=dns,
    )


def _merge_redirect(existing: SelectorPolicy, new: SelectorPolicy) -> SelectorPolicy:
    merged = existing
    if (existing.parser, existing.parser_name) != (new.parser, new.parser_name):
        if _promotes(existing.parser, new.parser):
            merged = replace(merged, parser=new.parser, parser_name=new.parser_name, priority=new.priority)
        elif not _promotes(new.parser, existing.parser):
            rules = _list((*existing.rules, *new.rules))
            raise MergeConflict(
                f"cannot merge conflicting L7 parsers ({existing.parser_name.lower()}/{new.parser_name.lower()}) of {rules}"
            )
    if not new.listener or (new.listener, new.priority) == (merged.listener, merged.priority):
        return merged
    # Priority 0 is the lowest.
    mine, other = merged.priority or 1 << 16, new.priority or 1 << 16
    if mine < other:
        return merged
    if not merged.listener or other < mine:
        return replace(merged, listener=new.listener, priority=new.priority)
    raise MergeConflict(
        f"cannot merge conflicting CiliumEnvoyConfig Listeners ({new.listener}/{merged.listener}) with the same priority ({mine})"
    )


def _promotes(parser: Parser, to: Parser) -> bool:
    if parser is Parser.NONE:
        return True
    return parser is Parser.TLS and to not in (Parser.NONE, Parser.DNS, Parser.CRD)


def _one_of(one: _T | None, other: _T | None, what: str, rules: tuple[RuleRef, ...]) -> _T | None:
    if one is not None and other is not None and one != other:
        raise MergeConflict(f"cannot merge conflicting {what} ({one}/{other}) of {_list(rules)}")
    return other if one is None else one


def _with(items: tuple[_T, ...], *more: _T) -> tuple[_T, ...]:
    return tuple(dict.fromkeys((*items, *more)))


def _list(rules: Iterable[RuleRef]) -> str:
    return " and ".join(map(str, rules))
