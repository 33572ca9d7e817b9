"""DNS and names: toFQDNs, and default deny that forgets the resolver."""

from __future__ import annotations

from collections.abc import Iterator

from harness.cases.document import Table
from harness.lint.containment import disjoint
from harness.lint.finding import Remark, Severity
from harness.lint.given import Given
from harness.lint.policy import LintedPolicy
from harness.lint.registry import rule
from harness.model.labels import reserved
from harness.model.traffic import Direction, Protocol
from harness.policy.fqdn import impossible
from harness.policy.identities import holds
from harness.policy.rules import FQDNSelector, LabelSelector, PortProtocol, Rule

_DNS = PortProtocol(53, Protocol.UDP)
_HEALTH = frozenset({reserved("health")})
_SUFFIXES = frozenset((
    "co.uk", "org.uk", "ac.uk", "gov.uk", "com.au", "net.au", "co.jp", "ne.jp", "com.br", "co.in", "com.cn", "co.kr", "co.nz", "co.za", "com.mx",
    "com.tr", "com.tw", "com.sg", "com.ar", "github.io", "amazonaws.com", "cloudfront.net", "azurewebsites.net", "windows.net",
    "googleapis.com", "appspot.com", "herokuapp.com", "workers.dev", "pages.dev", "vercel.app", "netlify.app",
))  # fmt: skip
"""Names below which anybody can have one of their own: registries with two labels, and places to host things."""
_INSIDE = (".svc", ".cluster.local")


@rule(
    "HL501",
    "names-without-dns-rule",
    Severity.ERROR,
    bad="""
        egress:
          - toFQDNs: [{matchName: api.example.com}]
          - toEntities: [cluster]
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
    """,
    good="""
        egress:
          - toFQDNs: [{matchName: api.example.com}]
          - toEntities: [cluster]
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
                rules: {dns: [{matchPattern: "*"}]}
    """,
)
def names_without_dns_rule(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """Cilium learns the addresses of names from answers that its DNS proxy sees, and it sees only what a DNS rule (`rules.dns`) sends
    there. Without one for the same pods, in any policy given, toFQDNs matches nothing."""
    named = [
        each for each in policy.rules(Direction.EGRESS, deny=False) if any(isinstance(peer, FQDNSelector) for peer in each.peers or ())
    ]
    dns = [each for each in given.allows(Direction.EGRESS) if any(port.dns for port in each.ports)] if named else ()
    for each in named:
        if not any(given.containment.subject(each.subject, other.subject) for other in dns):
            message = "no DNS rule teaches Cilium the addresses of these names: they match nothing"
            fix = 'allow port 53 to the resolver with `rules: {dns: [{matchPattern: "*"}]}`'
            yield Remark(policy.at(f"{_path(each)}.toFQDNs"), message, fix)


@rule(
    "HL502",
    "wide-name-pattern",
    Severity.WARNING,
    bad="""
        egress:
          - toFQDNs: [{matchPattern: "*.com"}]
          - toEntities: [cluster]
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
                rules: {dns: [{matchPattern: "*"}]}
    """,
    good="""
        egress:
          - toFQDNs: [{matchPattern: "*.example.com"}]
          - toEntities: [cluster]
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
                rules: {dns: [{matchPattern: "*"}]}
    """,
)
def wide_name_pattern(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A pattern below which anybody can have a name: a whole top-level domain (`*.com`), a registry (`*.co.uk`), or a place where
    everybody hosts (`*.amazonaws.com`). What is allowed to go there can go anywhere."""
    for path, selector in _names(policy):
        pattern = str(selector.get("matchPattern") or "").lower().rstrip(".")
        head, _, rest = pattern.partition(".")
        if not pattern or "*" not in pattern:
            continue
        if set(pattern) <= set("*.") or ("*" in head and ("." not in rest or rest in _SUFFIXES)):
            yield Remark(
                policy.at(f"{path}.matchPattern"), f"anybody can have a name that `{pattern}` matches", "name the domains that are needed"
            )


@rule(
    "HL503",
    "name-inside-the-cluster",
    Severity.WARNING,
    bad="""
        egress:
          - toFQDNs: [{matchName: api.shop.svc.cluster.local}]
          - toEntities: [cluster]
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
                rules: {dns: [{matchPattern: "*"}]}
    """,
    good="""
        egress:
          - toEndpoints:
              - matchLabels: {app: api}
          - toEntities: [cluster]
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
    """,
)
def name_inside_the_cluster(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """ToFQDNs is for what is outside the cluster. The addresses of pods and services get no identity from names: such a rule allows
    nothing."""
    for path, selector in _names(policy):
        for key in ("matchName", "matchPattern"):
            name = str(selector.get(key) or "").lower().rstrip(".")
            if name.endswith(_INSIDE):
                yield Remark(
                    policy.at(f"{path}.{key}"),
                    f"`{name}` is inside the cluster: toFQDNs never matches pods and services",
                    "write toEndpoints or toServices",
                )


@rule(
    "HL504",
    "forgets-dns",
    Severity.WARNING,
    bad="""
        egress:
          - toEndpoints:
              - matchLabels: {app: api}
            toPorts:
              - ports: [{port: "8080", protocol: TCP}]
    """,
    good="""
        egress:
          - toEndpoints:
              - matchLabels: {app: api}
            toPorts:
              - ports: [{port: "8080", protocol: TCP}]
          - toEndpoints:
              - matchLabels:
                  k8s:io.kubernetes.pod.namespace: kube-system
                  k8s:k8s-app: kube-dns
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
    """,
)
def forgets_dns(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """Egress is denied by default, some pods are allowed, and port 53 is not: the client cannot look up the name of the service that it
    may connect to. The same for a clusterwide default deny. Rules of any policy given for the same pods count."""
    rules = policy.rules(Direction.EGRESS)
    reaching = [each for each in rules if each.default_deny and not each.deny and any(_pods(peer) for peer in each.peers or ())]
    everywhere = [each for each in rules if each.default_deny and not each.node and holds(each.subject, _HEALTH)]
    named = any(isinstance(peer, FQDNSelector) for each in rules for peer in each.peers or ())
    for each in (reaching or everywhere) if not named else ():
        allows = (other for other in given.allows(Direction.EGRESS) if other.node is each.node)
        if not each.node and not any(_allows_dns(other) and not disjoint(other.subject, each.subject) for other in allows):
            yield Remark(
                policy.at(_path(each)),
                "egress is denied by default and DNS is not allowed: names cannot be looked up",
                "allow port 53 to the resolver, UDP and TCP",
            )
            return


@rule(
    "HL505",
    "impossible-name",
    Severity.ERROR,
    bad=f"""
        egress:
          - toFQDNs: [{{matchName: {"a" * 64}.example.com}}]
          - toEntities: [cluster]
            toPorts:
              - ports: [{{port: "53", protocol: ANY}}]
                rules: {{dns: [{{matchPattern: "*"}}]}}
    """,
    good="""
        egress:
          - toFQDNs: [{matchName: a.example.com}]
          - toEntities: [cluster]
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
                rules: {dns: [{matchPattern: "*"}]}
    """,
)
def impossible_name(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """Cilium looks at the characters of a name, and accepts names that DNS cannot have: a label has 63 characters at most, a name 253. Such a
    rule is in force and matches nothing, in toFQDNs as in rules for DNS."""
    asked = [each for element in policy.elements() for each in element.l7_items("dns")]
    for path, selector in (*_names(policy), *asked):
        for key in ("matchName", "matchPattern"):
            why = impossible(str(selector.get(key) or "*"))
            if why:
                yield Remark(policy.at(f"{path}.{key}"), f"nothing has this name: {why}", "write a name that DNS can have")


def _pods(peer: object) -> bool:
    """Whether a peer is pods by their labels, which are reached by the names of services."""
    return isinstance(peer, LabelSelector) and bool(peer.requirements) and all(each.source != "reserved" for each in peer.requirements)


def _allows_dns(rule_: Rule) -> bool:
    if rule_.peers is None or not (rule_.peers or rule_.ports):
        return False
    ports = [port for each in rule_.ports for port in each.ports]
    return not rule_.ports or any(_is_dns(port) for port in ports)


def _is_dns(port: PortProtocol) -> bool:
    if port.protocol not in (None, Protocol.UDP):
        return False
    if port.name:
        return "dns" in port.name
    return not port.port or port.port <= _DNS.port <= max(port.port, port.end_port)


def _path(rule_: Rule) -> str:
    return rule_.ref.path if rule_.ref.path.startswith("specs[") else f"spec.{rule_.ref.path}"


def _names(policy: LintedPolicy) -> Iterator[tuple[str, Table]]:
    """The items of toFQDNs, with their paths."""
    for element in policy.elements():
        for path, each in element.items("toFQDNs"):
            if isinstance(each, Table):
                yield path, each
