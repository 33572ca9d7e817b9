"""What proxies answer: HTTP requests, DNS lookups and TLS names against the L7 rules that apply to a connection.

Envoy looks at all rules that match peer and port: a rule that does not match gives no verdict, one that matches (a plain allow matches
everything) lets the request pass. The DNS proxy looks at the filters of that very port only. Sources: pkg/envoy/policy,
cilium/proxy network_policy.cc, pkg/fqdn/dnsproxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote

from msgspec import Struct

from harness.model.traffic import Request, RequestKind
from harness.model.verdict import L7Decision
from harness.policy.fqdn import FQDNMatcher
from harness.policy.l4 import Filter, SelectorPolicy
from harness.policy.map import ProxyRules
from harness.policy.rules import DNSRule, HTTPRule, Mismatch, Parser
from harness.policy.validate import regex

_R = TypeVar("_R")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPED_SLASH = re.compile(r"%(2f|5c)", re.IGNORECASE)


class Applicable(Struct, frozen=True):
    """An allow that matches the connection: its filter, its policy, and whether that it matches is certain."""

    filter: Filter | None
    policy: SelectorPolicy
    certain: bool = True


class L7Answer(Struct, frozen=True):
    decision: L7Decision
    note: str = ""


_ALLOWED = L7Answer(L7Decision.ALLOW)
_DENIED = L7Answer(L7Decision.DENY)


def winning_redirect(allows: Iterable[Applicable]) -> SelectorPolicy | None:
    """The policy whose proxy gets the connection, or None if no proxy does. A redirect outranks any plain allow."""
    redirects = [each.policy for each in allows if not each.policy.plain]
    return min(redirects, key=lambda policy: policy.priority or 1 << 16, default=None)


def proxy_rules(allows: Sequence[Applicable]) -> ProxyRules:
    """What the proxy that `winning_redirect` names has to go by: the same rules as `answer`, those that match for certain."""
    certain = [each for each in allows if each.certain]
    winner = winning_redirect(certain)
    if winner is not None and winner.parser is Parser.DNS:
        proxied = {id(each.filter) for each in certain if each.policy.parser is Parser.DNS}
        own = [each.policy for each in certain if id(each.filter) in proxied]
        return ProxyRules(everything=not all(policy.dns for policy in own), dns=_once(rule for policy in own for rule in policy.dns))
    policies = [each.policy for each in certain]
    return ProxyRules(
        everything=any(policy.plain for policy in policies),
        http=_once(rule for policy in policies for rule in policy.http),
        server_names=tuple(sorted({name for policy in policies for name in policy.server_names})),
        beyond=next(filter(None, map(_beyond, policies)), ""),
    )


def _beyond(policy: SelectorPolicy) -> str:
    if policy.parser in (Parser.CRD, Parser.KAFKA, Parser.PROXYLIB):
        return f"listener {policy.listener}" if policy.listener else f"{policy.parser_name.lower()} rules"
    if policy.terminating_tls is not None or policy.originating_tls is not None:
        return "TLS inspection"
    return ""


def _once(rules: Iterable[_R]) -> tuple[_R, ...]:
    return tuple(dict.fromkeys(rules))


def answer(allows: Sequence[Applicable], request: Request) -> L7Answer:
    """What becomes of a request on a connection that L3 and L4 allow."""
    winner = winning_redirect(allows)
    if winner is None or request.kind in (RequestKind.ICMP, RequestKind.ICMP6):
        return _ALLOWED
    if winner.parser is Parser.DNS:
        return _dns_answer(allows, request)
    found, unknown = _DENIED, None
    for each in allows:
        verdict = _envoy_answer(each.policy, request)
        if verdict.decision is L7Decision.ALLOW and each.certain:
            return verdict
        if verdict.decision is L7Decision.DENY:
            found = found if found.note else verdict
        else:
            note = verdict.note or "a rule that may match depends on what the model cannot know"
            unknown = L7Answer(L7Decision.UNKNOWN, note)
    return unknown or found


def _dns_answer(allows: Sequence[Applicable], request: Request) -> L7Answer:
    if request.kind is not RequestKind.LOOKUP:
        return L7Answer(L7Decision.DENY, "the DNS proxy answers DNS messages only")
    proxied = {id(each.filter) for each in allows if each.policy.parser is Parser.DNS}
    maybe = False
    for each in allows:
        if id(each.filter) not in proxied:
            continue
        if not each.policy.dns or any(_matcher(rule).matches(request.name) for rule in each.policy.dns):
            if each.certain:
                return _ALLOWED
            maybe = True
    return L7Answer(L7Decision.UNKNOWN, "a rule that may match depends on what the model cannot know") if maybe else _DENIED


def name_allowed(rules: ProxyRules, name: str) -> bool:
    """Whether the DNS proxy lets a question for this name pass."""
    return rules.everything or any(_matcher(rule).matches(name) for rule in rules.dns)


@lru_cache(maxsize=4096)
def _matcher(rule: DNSRule) -> FQDNMatcher:
    return FQDNMatcher(rule.match_name, "" if rule.match_name else rule.match_pattern)


def _envoy_answer(policy: SelectorPolicy, request: Request) -> L7Answer:
    match policy.parser:
        case Parser.NONE:
            return _ALLOWED
        case Parser.DNS:
            return _DENIED
        case Parser.CRD | Parser.KAFKA | Parser.PROXYLIB:
            return L7Answer(L7Decision.UNKNOWN, f"what {policy.listener or policy.parser_name} answers is not modelled")
    if request.kind is RequestKind.TLS:
        return _tls_answer(policy, request.name)
    if request.kind is RequestKind.LOOKUP:
        # No TLS and no HTTP: only a redirect that demands neither lets it pass.
        return _DENIED if policy.server_names or policy.has_l7_rules else _ALLOWED
    if policy.server_names and policy.terminating_tls is None:
        return L7Answer(L7Decision.DENY, "the rule demands a TLS server name")
    found = http_answer(policy.http, request) if policy.http else _ALLOWED
    if policy.server_names and found.decision is L7Decision.ALLOW:
        return L7Answer(L7Decision.UNKNOWN, "the request is inside TLS and its server name is not given")
    return found


def _tls_answer(policy: SelectorPolicy, name: str) -> L7Answer:
    if policy.server_names and not any(server_name_matches(pattern, name) for pattern in policy.server_names):
        return _DENIED
    if not policy.has_l7_rules:
        return _ALLOWED
    if policy.terminating_tls is None:
        return L7Answer(L7Decision.DENY, "the proxy reads HTTP, and TLS is not terminated")
    return L7Answer(L7Decision.UNKNOWN, "the HTTP request inside TLS decides, and it is not given")


def server_name_matches(pattern: str, name: str) -> bool:
    """A TLS server name against an item of serverNames: `*` stays within a label, `**` crosses labels, `*` alone is any name."""
    if not name:
        return False
    if pattern == "*":
        return True
    return _server_name(pattern.lower().rstrip(".")).fullmatch(name.lower().rstrip(".")) is not None


@lru_cache(maxsize=1024)
def _server_name(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*+)", pattern)
    return re.compile("".join(_STARS[min(len(part), 2)] if part.startswith("*") else re.escape(part) for part in parts))


_STARS = {1: "[-a-z0-9_]*", 2: "[-a-z0-9_.]+"}


def http_answer(rules: Sequence[HTTPRule], request: Request) -> L7Answer:
    """Whether any HTTP rule matches the request."""
    path, redirects = normalised(request.path or "/")
    if redirects:
        return L7Answer(L7Decision.UNKNOWN, "the proxy redirects a path with an escaped slash to its unescaped form")
    found = _DENIED
    for rule in rules:
        verdict = _rule_answer(rule, request, path)
        if verdict.decision is L7Decision.ALLOW:
            return verdict
        if verdict.decision is L7Decision.UNKNOWN:
            found = verdict
    return found


def _rule_answer(rule: HTTPRule, request: Request, path: str) -> L7Answer:
    grpc = request.kind is RequestKind.GRPC
    method = request.method or ("POST" if grpc else "GET")
    if not _full_match(rule.path, path) or not _full_match(rule.method, method):
        return _DENIED
    if rule.host and request.host and not _full_match(rule.host, request.host):
        return _DENIED
    present: dict[str, str] = {}
    for name, value in request.headers:
        key = name.lower()
        present[key] = f"{present[key]},{value}" if key in present else value
    for header in rule.headers:
        name, space, value = header.partition(" ")
        if space:
            if present.get(name.rstrip(":").lower()) != value:
                return _DENIED
        elif name.lower() not in present:
            return _DENIED
    unreadable = ""
    for match in rule.header_matches:
        if match.mismatch is not Mismatch.FAIL:
            continue
        key = match.name.lower()
        if match.secret:
            unreadable = unreadable or f"the value of header {match.name} is in Secret {match.secret}"
        elif key not in present or (match.value and present[key] != match.value):
            return _DENIED
    if rule.host and not request.host:
        unreadable = unreadable or "the rule looks at the host, and the request has none"
    return L7Answer(L7Decision.UNKNOWN, unreadable) if unreadable else _ALLOWED


def _full_match(pattern: str, text: str) -> bool:
    if not pattern:
        return True
    program: Any = regex(pattern)
    return program is not None and program.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def normalised(target: str) -> tuple[str, bool]:
    """The path with its query as the rules see it, and whether the proxy would rather redirect the client.

    RFC 3986 normalisation as Envoy does it: unreserved characters unescaped, `.` and `..` resolved, slashes merged.
    """
    path, mark, query = target.partition("?")
    if _ESCAPED_SLASH.search(path):
        return target, True
    path = _ESCAPE.sub(_unescape, path.replace("\\", "/"))
    path = re.sub(r"/{2,}", "/", path)
    kept: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == "..":
            if kept:
                kept.pop()
            if last:
                kept.append("")
        elif segment == ".":
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return f"/{'/'.join(kept)}{mark}{query}", False


def _unescape(match: re.Match[str]) -> str:
    character = unquote(match.group())
    return character if character in _UNRESERVED else match.group()
