"""Ports, protocols and ICMP types that are read otherwise than they are written; rules that need a setting of the agents."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.cases.document import Items, Table, Text
from harness.lint.finding import Edit, Remark, Severity, whole_lines
from harness.lint.given import Given
from harness.lint.policy import LintedPolicy
from harness.lint.registry import rule
from harness.policy.validate import is_service_name

_OCTAL = re.compile(r"0[0-7_]*[1-7][0-7_]*")


@rule(
    "HL301",
    "any-without-icmp",
    Severity.INFO,
    bad="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "0", protocol: ANY}]
    """,
    good="""
        ingress:
          - fromEntities: [cluster]
    """,
)
def any_without_icmp(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """ANY means TCP, UDP and SCTP. Even with port 0, all ports, it leaves out ICMP: no ping. An element without `toPorts` is all."""
    for element in policy.elements():
        for path, port in element.port_items():
            if (
                str(port.get("port")) == "0"
                and str(port.get("protocol", "ANY")) == "ANY"
                and "endPort" not in port
                and not policy.kubernetes
            ):
                yield Remark(
                    policy.at(path),
                    "every port of TCP, UDP and SCTP, and no ICMP",
                    "for all protocols remove `toPorts`, for ping add an element with `icmps`",
                )


@rule(
    "HL302",
    "port-0-with-range",
    Severity.ERROR,
    bad="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "0", endPort: 1023, protocol: TCP}]
    """,
    good="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "1", endPort: 1023, protocol: TCP}]
    """,
)
def port_0_with_range(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """Port 0 means all ports. Since Cilium 1.20 it does so even with an endPort, which is then ignored; 1.19 reads a range."""
    for element in policy.elements():
        for path, port in element.port_items():
            if str(port.get("port")) == "0" and port.get("endPort"):
                yield Remark(
                    policy.at(f"{path}.endPort"),
                    "port 0 is all ports, and endPort is ignored (1.19: a range from 0)",
                    "begin the range at 1",
                )


@rule(
    "HL303",
    "octal-port",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "0443", protocol: TCP}]
    """,
    good="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "443", protocol: TCP}]
    """,
)
def octal_port(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A port that begins with 0 is octal: `"0443"` is 291. And `"0x50"` is no number at all but a named port. `--fix` writes the number
    that Cilium reads."""
    for element in policy.elements():
        for path, port in element.port_items():
            text = port.get("port")
            if not isinstance(text, Text) or policy.kubernetes:
                continue
            if _OCTAL.fullmatch(str(text)):
                number = int(str(text).replace("_", ""), 8)
                edits = (Edit(text.place, f'"{number}"'),) if text.place.line == text.place.end_line else ()
                yield Remark(
                    text.place, f"a leading 0 means octal: Cilium reads port {number}", f'write "{number}", or the number you mean', edits
                )
            elif str(text)[:2].lower() == "0x" and is_service_name(str(text)):
                yield Remark(policy.at(f"{path}.port"), f"`{text}` is a named port, not a number", "write the number in decimal")


@rule(
    "HL304",
    "end-port-ignored",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports:
                  - port: "8080"
                    endPort: 8000
                    protocol: TCP
    """,
    good="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports:
                  - port: "8000"
                    endPort: 8080
                    protocol: TCP
    """,
)
def end_port_ignored(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """An endPort that is not above its port makes no range: one port only. `--fix` removes it."""
    for _, port in (each for element in policy.elements() for each in element.port_items()):
        first, last = port.get("port"), port.get("endPort")
        if policy.kubernetes or not isinstance(first, Text) or not isinstance(last, Text) or not re.fullmatch("[1-9][0-9]*", first):
            continue
        if isinstance(last.value, int) and last.value <= int(first):
            key = port.key("endPort")
            edits = () if port.flow else whole_lines(key.place.to(last.place))
            message = f"endPort {last} is not above port {first}: this is port {first} alone"
            yield Remark(key.place, message, "remove it, or swap the two", edits)


@rule(
    "HL305",
    "named-range",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: http, endPort: 8090, protocol: TCP}]
    """,
    good="""
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "8080", endPort: 8090, protocol: TCP}]
    """,
)
def named_range(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A range that begins at a named port. On ingress it runs from whatever number the pod gives the name; on egress Cilium 1.20 ignores
    endPort. Where two rules give one name different ends, the first by name of the policy wins."""
    for element in policy.elements():
        for path, port in element.port_items():
            text = port.get("port")
            if isinstance(text, Text) and port.get("endPort") and is_service_name(str(text)) and not policy.kubernetes:
                yield Remark(
                    policy.at(f"{path}.endPort"),
                    f"a range from the named port `{text}`: where it ends depends on version and order",
                    "write the range in numbers",
                )


@rule(
    "HL306",
    "icmp-type-0",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEntities: [cluster]
            icmps:
              - fields: [{type: EchoReply, family: IPv4}]
    """,
    good="""
        ingress:
          - fromEntities: [cluster]
            icmps:
              - fields: [{type: EchoRequest, family: IPv4}]
    """,
)
def icmp_type_0(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """ICMP types stand where ports do, and 0 there means all: type 0 (EchoReply) covers every type of its family. Replies to pings need
    no rule."""
    for element in policy.elements():
        for path, item in element.items("icmps"):
            fields = item.get("fields") if isinstance(item, Table) else None
            for index, each in enumerate(fields if isinstance(fields, Items) else ()):
                kind = str(each.get("type")) if isinstance(each, Table) else ""
                if kind in ("0", "EchoReply") and str(each.get("family", "IPv4")) == "IPv4":
                    yield Remark(
                        policy.at(f"{path}.fields[{index}].type"),
                        f"type {kind} covers all of ICMP",
                        "to let pings pass write EchoRequest; replies need no rule",
                    )


@rule(
    "HL307",
    "authentication-setting",
    Severity.INFO,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            authentication: {mode: required}
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def authentication_setting(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """`authentication.mode: required` drops traffic until the peers have authenticated. Nobody does that for them unless helm has
    `authentication.enabled`, which is off by default since 1.19: then nothing ever passes."""
    for element in policy.elements():
        found = element.table.get("authentication")
        if isinstance(found, Table) and str(found.get("mode")) == "required":
            yield Remark(
                policy.at(f"{element.path}.authentication"),
                "all of this is dropped unless the cluster has `authentication.enabled` (off by default since 1.19)",
                "turn it on, or remove this",
            )


@rule(
    "HL308",
    "host-firewall-setting",
    Severity.INFO,
    bad="""
        kind: CiliumClusterwideNetworkPolicy
        metadata: {name: nodes}
        spec:
          nodeSelector: {}
          ingress:
            - fromEntities: [cluster]
    """,
    good="""
        kind: CiliumClusterwideNetworkPolicy
        metadata: {name: pods}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress:
            - fromEntities: [cluster]
    """,
)
def host_firewall_setting(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A policy with a nodeSelector is enforced only where the host firewall is on (helm `hostFirewall.enabled`, off by default).
    Everywhere else it selects nothing."""
    for spec in policy.specs() if policy.clusterwide else ():
        if "nodeSelector" in spec.table:
            yield Remark(
                policy.at(f"{spec.path}.nodeSelector"),
                "enforced only where helm has `hostFirewall.enabled`, which is off by default",
                "turn it on, or select endpoints",
            )
