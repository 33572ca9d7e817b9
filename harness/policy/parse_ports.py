"""toPorts and icmps to typed port rules, with the sanitizer's checks of ports, L7 rules, server names and listeners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.model.traffic import Protocol
from harness.policy.options import Options
from harness.policy.rules import (
    DNSRule,
    HeaderMatch,
    HTTPRule,
    Listener,
    Mismatch,
    PortProtocol,
    PortRule,
    TLSContext,
)
from harness.policy.validate import agent, fqdn, http_pattern, icmp_type, is_service_name, port_number

Document = Mapping[str, Any]

MAX_PORTS = 40
_EXTENDED = frozenset({Protocol.VRRP, Protocol.IGMP, Protocol.GRE, Protocol.IPIP, Protocol.IPV6, Protocol.ESP, Protocol.AH})


def parse_port_rules(
    items: Sequence[Document], path: str, *, ingress: bool, deny: bool, host: bool, options: Options
) -> tuple[PortRule, ...]:
    """The items of toPorts. `host`: the policy is for nodes, where L7 rules are limited."""
    found = []
    if not deny:
        _check_l7_placement(items, path, ingress=ingress, host=host, options=options)
    for index, each in enumerate(items):
        where = f"{path}[{index}]"
        if deny:
            found.append(PortRule(_ports(each, where, None, options)))
        else:
            found.append(_port_rule(each, where, ingress=ingress, options=options))
    return tuple(found)


def parse_icmps(items: Sequence[Document], path: str) -> tuple[PortRule, ...]:
    """Each item of icmps is a port rule whose ports are ICMP types; type 0 is "port 0" and so covers the whole family."""
    found = []
    for index, each in enumerate(items):
        ports = []
        for at, field in enumerate(each.get("fields") or ()):
            family = field.get("family") or "IPv4"
            number = icmp_type(field["type"], family, f"{path}[{index}].fields[{at}].type")
            ports.append(PortProtocol(number, Protocol.ICMPV6 if family == "IPv6" else Protocol.ICMP))
        found.append(PortRule(tuple(ports)))
    return tuple(found)


def _l7_kinds(item: Document) -> list[str]:
    """The L7 rule kinds of a toPorts item that have at least one rule."""
    rules = item.get("rules") or {}
    return [kind for kind in ("dns", "http", "kafka", "l7") if rules.get(kind)]


def _check_l7_placement(items: Sequence[Document], path: str, *, ingress: bool, host: bool, options: Options) -> None:
    for index, each in enumerate(items):
        where = f"{path}[{index}].rules"
        kinds = _l7_kinds(each)
        if not kinds:
            continue
        if ingress and host:
            raise agent(where, "L7 policy is not supported on host ingress yet")
        if not options.l7_proxy:
            raise agent(where, "L7 policy is not supported since L7 proxy is not enabled")
        for kind in kinds:
            if ingress and kind == "dns":
                raise agent(f"{where}.dns", "L7 protocol DNS is not supported on ingress yet")
            if host and kind in ("http", "kafka"):
                raise agent(f"{where}.{kind}", f"L7 protocol {kind.upper()} is not supported on host egress yet")


def _port_rule(item: Document, path: str, *, ingress: bool, options: Options) -> PortRule:
    rules = item.get("rules") or {}
    kinds = _l7_kinds(item)
    server_names = tuple(item.get("serverNames") or ())
    terminating = _tls(item.get("terminatingTLS"))
    if server_names and kinds and terminating is None:
        raise agent(f"{path}.serverNames", "ServerNames are not allowed with L7 rules without TLS termination")
    if "" in server_names:
        raise agent(f"{path}.serverNames", "empty server name is not allowed")
    ports = _ports(item, path, kinds, options)
    listener = _listener(item.get("listener"))
    if listener is not None and ingress:
        raise agent(f"{path}.listener", f"Listener is not allowed on ingress ({listener.name})")
    if listener is not None and kinds:
        raise agent(f"{path}.listener", f"Listener is not allowed with L7 rules ({listener.name})")
    if kinds and any(each.port == 0 and not each.name for each in ports):
        raise agent(f"{path}.rules", "L7 rules can not be used when a port is 0")
    http = tuple(_http(each, f"{path}.rules.http[{index}]") for index, each in enumerate(rules.get("http") or ()))
    if rules.get("dns") and not ports:
        raise agent(f"{path}.rules.dns", "port 53 must be specified for DNS rules")
    dns = tuple(_dns(each, f"{path}.rules.dns[{index}]") for index, each in enumerate(rules.get("dns") or ()))
    if rules.get("l7") and not rules.get("l7proto"):
        raise agent(f"{path}.rules.l7", "'l7' may only be specified when a 'l7proto' is also specified")
    if kinds and sum(rules.get(kind) is not None for kind in ("http", "dns", "kafka", "l7proto")) > 1:
        raise agent(f"{path}.rules", "multiple L7 protocol rule types specified in single rule")
    return PortRule(
        ports=ports,
        http=http,
        dns=dns,
        other_l7="kafka" if rules.get("kafka") else rules.get("l7proto") or "",
        server_names=server_names,
        terminating_tls=terminating,
        originating_tls=_tls(item.get("originatingTLS")),
        listener=listener,
    )


def _ports(item: Document, path: str, l7_kinds: list[str] | None, options: Options) -> tuple[PortProtocol, ...]:
    items = item.get("ports") or ()
    if len(items) > MAX_PORTS:
        raise agent(f"{path}.ports", f"too many ports, the max is {MAX_PORTS}")
    dns = "dns" in (l7_kinds or ())
    found = []
    for index, each in enumerate(items):
        where = f"{path}.ports[{index}]"
        port = _port(each, where, dns=dns, options=options)
        if l7_kinds and not dns and port.protocol is not Protocol.TCP:
            shown = "ANY" if port.protocol is None else port.protocol.value
            raise agent(f"{where}.protocol", f"L7 rules can only apply to TCP (not {shown}) except for DNS rules")
        found.append(port)
    return tuple(found)


def _port(item: Document, path: str, *, dns: bool, options: Options) -> PortProtocol:
    text = item.get("port") or ""
    written = item.get("protocol") or "ANY"
    protocol = None if written == "ANY" else Protocol(written)
    end = int(item.get("endPort") or 0)
    if not text:
        if not options.extended_protocols:
            raise agent(f"{path}.port", "port must be specified")
        return PortProtocol(0, protocol, end_port=end)
    if is_service_name(text):
        return PortProtocol(0, protocol, name=text.lower(), end_port=end)
    if protocol in _EXTENDED and text != "0":
        raise agent(f"{path}.port", "port must be empty or 0")
    number = port_number(text, f"{path}.port")
    if dns and end > number:
        raise agent(f"{path}.endPort", "DNS rules do not support port ranges")
    return PortProtocol(number, protocol, end_port=end)


def _tls(document: Document | None) -> TLSContext | None:
    if document is None:
        return None
    secret = document["secret"]
    return TLSContext(f"{secret.get('namespace') or ''}/{secret.get('name') or ''}")


def _listener(document: Document | None) -> Listener | None:
    if document is None:
        return None
    config = document["envoyConfig"]
    return Listener(document["name"], config.get("kind") or "", config["name"], int(document.get("priority") or 0))


def _http(item: Document, path: str) -> HTTPRule:
    rule_path, method = item.get("path") or "", item.get("method") or ""
    http_pattern(rule_path, f"{path}.path")
    http_pattern(method, f"{path}.method")
    matches = []
    for index, each in enumerate(item.get("headerMatches") or ()):
        where = f"{path}.headerMatches[{index}]"
        if not each.get("name"):
            raise agent(f"{where}.name", "Header name missing")
        secret = each.get("secret")
        if secret is not None and not secret.get("name"):
            raise agent(f"{where}.secret", "Secret name missing")
        matches.append(
            HeaderMatch(
                each["name"],
                each.get("value") or "",
                Mismatch(each.get("mismatch") or ""),
                f"{secret.get('namespace') or ''}/{secret['name']}" if secret else "",
            )
        )
    return HTTPRule(rule_path, method, item.get("host") or "", tuple(item.get("headers") or ()), tuple(matches))


def _dns(item: Document, path: str) -> DNSRule:
    name, pattern = item.get("matchName") or "", item.get("matchPattern") or ""
    fqdn(name, pattern, path, both_allowed=True)
    return DNSRule(name, pattern)
