"""L7 rules that match less or more than they look like, or are lifted by others."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.cases.document import Items, Table, Text
from harness.lint.coverage import peers_of, port_within
from harness.lint.finding import Remark, Severity
from harness.lint.given import Given
from harness.lint.policy import LintedPolicy
from harness.lint.registry import rule
from harness.model.traffic import Direction
from harness.model.verdict import RuleRef
from harness.policy.rules import Parser, PortRule, Rule

_REGEX = re.compile(r"\.[*+?]|\\[dwsbDWSB.]|\[[^\]]+\]|^\^|\$$|\(\?|[)\w]\|[(\w]")
_GLOB = re.compile(r"/\*")
_META = re.compile(r"[.*+?()\[\]{}|\\^$]")


@rule(
    "HL401",
    "header-is-literal",
    Severity.WARNING,
    bad="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - headers: ["X-API-Key: .*"]
    """,
    good="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - headers: ["X-API-Key"]
    """,
)
def header_is_literal(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """`path`, `method` and `host` are regular expressions, `headers` are not: the value is compared as it stands. `X-API-Key: .*` wants
    a key of a dot and a star. A name alone asks whether the header is there."""
    for path, text in _headers(policy):
        name, space, value = str(text).partition(" ")
        if space and _REGEX.search(value):
            name = name.rstrip(":")
            fix = f'for any value write "{name}"' if value in (".*", ".+") else "write the value itself; patterns are not supported here"
            yield Remark(policy.at(path), f"header values are literal: this wants `{name}` to be exactly `{value}`", fix)


@rule(
    "HL402",
    "header-without-space",
    Severity.WARNING,
    bad="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - headers: ["X-Role:admin"]
    """,
    good="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - headers: ["X-Role: admin"]
    """,
)
def header_without_space(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """Name and value of a header are told apart by the first space. Without one, all of it is a name, which no request has."""
    for path, text in _headers(policy):
        name, colon, value = str(text).partition(":")
        if " " not in text and colon and value:
            yield Remark(policy.at(path), f"without a space this asks for a header called `{text}`", f'write "{name}: {value}"')


@rule(
    "HL403",
    "path-is-no-prefix",
    Severity.WARNING,
    bad="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - path: /public/
    """,
    good="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - path: /public/.*
    """,
)
def path_is_no_prefix(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A path is a regular expression that must match all of the request's path, query string included. `/public/` matches that and
    nothing below it, and `^/public` no more than `/public`."""
    for where, rule_ in _http(policy):
        text = rule_.get("path")
        if not isinstance(text, Text):
            continue
        path = str(text)
        slash = path.endswith("/") and len(path) > 1 and not _META.search(path)
        caret = path.startswith("^") and not _META.search(path[1:])
        if slash or caret:
            yield Remark(
                policy.at(f"{where}.path"),
                f"`{path}` matches that path alone, nothing that begins with it",
                f"for all below it write `{path.lstrip('^')}.*`",
            )


@rule(
    "HL404",
    "path-is-no-glob",
    Severity.WARNING,
    bad="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - path: /api/*
    """,
    good="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - path: /api/.*
    """,
)
def path_is_no_glob(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A path is a regular expression, where a star repeats what stands before it: `/api/*` matches `/api`, `/api/` and `/api//`, and no
    `/api/users`."""
    for where, rule_ in _http(policy):
        text = rule_.get("path")
        if isinstance(text, Text) and _GLOB.search(str(text)):
            yield Remark(
                policy.at(f"{where}.path"), "`/*` matches any number of slashes, not any path", f"write `{_GLOB.sub('/.*', str(text))}`"
            )


@rule(
    "HL405",
    "lower-case-method",
    Severity.WARNING,
    bad="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - method: get
    """,
    good="""
        ingress:
          - toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules:
                  http:
                    - method: GET
    """,
)
def lower_case_method(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """HTTP methods are in capitals, and the rule is compared as it stands: `get` matches no request."""
    for where, rule_ in _http(policy):
        text = rule_.get("method")
        if isinstance(text, Text) and text.isalpha() and not text.isupper():
            yield Remark(policy.at(f"{where}.method"), f"`{text}` matches no request: methods are in capitals", f"write {text.upper()}")


@rule(
    "HL406",
    "l7-on-every-pod",
    Severity.WARNING,
    bad="""
        endpointSelector: {}
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules: {http: [{method: GET}]}
    """,
    good="""
        endpointSelector: {matchLabels: {app: web}}
        ingress:
          - fromEntities: [cluster]
            toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules: {http: [{method: GET}]}
    """,
)
def l7_on_every_pod(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """HTTP rules send every connection to that port through Envoy. Under an empty endpointSelector that is so for all pods, whether they
    speak HTTP there or not: what is no HTTP is cut off."""
    for spec in policy.specs():
        http = [path for element in spec.elements() for path, _ in element.l7_items("http")]
        if http and spec.table.get("endpointSelector") == {}:
            yield Remark(
                policy.at(f"{spec.path}.endpointSelector"),
                "HTTP rules for every pod: all their connections to these ports go through the proxy",
                "select the pods that serve this port",
            )


@rule(
    "HL407",
    "l7-lifted",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules: {http: [{method: GET, path: /public}]}
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            toPorts:
              - ports: [{port: "8080", protocol: TCP}]
                rules: {http: [{method: GET, path: /public}]}
          - fromEndpoints:
              - matchLabels: {app: api}
            toPorts:
              - ports: [{port: "9090", protocol: TCP}]
    """,
)
def l7_lifted(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A plain allow for the same peers and port beside an L7 rule: rules add up, and the one without conditions lets every request pass.
    HTTP rules are lifted by any plain allow, DNS rules by one that names the same port."""
    containment = given.containment
    for direction in Direction:
        for inner in policy.rules(direction, deny=False):
            limited = [each for each in inner.ports if each.parser in (Parser.HTTP, Parser.DNS) and not each.server_names]
            if not limited or inner.services or inner.peers is None:
                continue
            for outer in given.rules(policy, direction):
                if outer.deny or outer.services or outer.peers is None or not (outer.peers or outer.ports) or outer.node is not inner.node:
                    continue
                if (
                    all(_lifts(outer, each) for each in limited)
                    and containment.subject(inner.subject, outer.subject)
                    and containment.peers(peers_of(inner), peers_of(outer))
                ):
                    where = _l7_place(policy, inner.ref)
                    yield Remark(
                        policy.at(where),
                        f"no request is refused here: {_named(outer.ref, policy)} allows all of them",
                        "narrow one of the two",
                    )
                    break


def _lifts(outer: Rule, limited: PortRule) -> bool:
    """Whether a rule allows, without conditions, the ports of an L7 rule."""
    plain = [port for each in outer.ports if each.parser is Parser.NONE for port in each.ports]
    if limited.parser is Parser.DNS:
        # The DNS proxy looks at the filters of that very port.
        return all(
            any(port_within(port, each) and each.port == port.port and not each.end_port for each in plain) for port in limited.ports
        )
    return not outer.ports or all(any(port_within(port, each) for each in plain) for port in limited.ports)


def _l7_place(policy: LintedPolicy, ref: RuleRef) -> str:
    """The path of the first L7 rules of a rule."""
    base = ref.path if ref.path.startswith("specs[") else f"spec.{ref.path}"
    elements = [each for each in policy.elements() if each.path == base]
    found = [path for element in elements for kind in ("http", "dns") for path, _ in element.l7_items(kind)]
    return found[0].rpartition("[")[0] if found else base


def _named(ref: RuleRef, policy: LintedPolicy) -> str:
    return ref.path if ref.policy == policy.ref else str(ref)


def _headers(policy: LintedPolicy) -> Iterator[tuple[str, Text]]:
    for path, each in _http(policy):
        headers = each.get("headers")
        for index, text in enumerate(headers if isinstance(headers, Items) else ()):
            if isinstance(text, Text):
                yield f"{path}.headers[{index}]", text


def _http(policy: LintedPolicy) -> Iterator[tuple[str, Table]]:
    for element in policy.elements():
        yield from element.l7_items("http")
