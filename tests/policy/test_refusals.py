"""Every way to be refused (section 8 of the semantics): by whom, where in the object, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from harness.model.verdict import Decision, PolicyError, PolicyRef
from harness.policy.options import Options
from harness.policy.parse import parse_policy
from tests.policy.policy_worlds import Document, app, ask, ccnp, cnp, evaluator, knp, ports

S, AGENT, D = "schema", "agent", "decode"


def refused(document: Document, cilium: str = "1.20", **options: Any) -> PolicyError | None:
    return parse_policy(document, Options.of(cilium, **options)).error


def ingress(*elements: Document, **more: Any) -> Document:
    return cnp(ingress=list(elements), **more)


def egress(*elements: Document) -> Document:
    return cnp(egress=list(elements))


def without(document: Document, *keys: str) -> Document:
    return {**document, "spec": {key: value for key, value in document["spec"].items() if key not in keys}}


def l7(rules: Document, port: str = "80/TCP") -> Document:
    return {"toPorts": ports(port, rules=rules)}


HTTP = {"http": [{"path": "/x"}]}
NAMES = {"dns": [{"matchPattern": "*"}]}
LISTENER = {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "e"}, "name": "l"}
MANY = [str(port) for port in range(1, 42)]
SET = "spec.ingress[0].fromCIDRSet[0]"
TO_PORTS = "spec.ingress[0].toPorts[0]"

# row: (document, stage, path, part of the message)
ROWS: dict[str, tuple[Document, str, str, str]] = {
    "1 no direction": (without(cnp(ingress=[{}]), "ingress"), S, "spec", "at least one of ingress"),
    "2 only empty lists": (cnp(ingress=[], egress=[]), AGENT, "spec", "rule must have at least one of"),
    "3 no selector": (without(ingress({}), "endpointSelector"), S, "spec", "exactly one of endpointSelector, nodeSelector"),
    "3 both selectors": (ccnp(ingress=[{}], nodeSelector={}), S, "spec", "found endpointSelector, nodeSelector"),
    "4 nodeSelector in a CNP": (
        without(cnp(ingress=[{}], nodeSelector={}), "endpointSelector"),
        AGENT,
        "spec.nodeSelector",
        "rule cannot have NodeSelector",
    ),
    "5 no spec": (
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "a"}},
        AGENT,
        "",
        "empty policy",
    ),
    "5 no name": ({**ingress({}), "metadata": {"namespace": "a"}}, S, "metadata.name", "Required value"),
    "6 a bad key": (
        ingress({"fromEndpoints": [{"matchLabels": {"-x": "y"}}]}),
        AGENT,
        "spec.ingress[0].fromEndpoints[0].matchLabels",
        "invalid label selector",
    ),
    "6 a bad value": (ingress({"fromEndpoints": [app("-x")]}), S, "spec.ingress[0].fromEndpoints[0].matchLabels.app", "should match"),
    "6 a value that is no text": (
        cnp(subject={"matchLabels": {"app": 1}}, ingress=[{}]),
        S,
        "spec.endpointSelector.matchLabels.app",
        "string",
    ),
    "6 In without values": (
        ingress({"fromEndpoints": [{"matchExpressions": [{"key": "app", "operator": "In", "values": []}]}]}),
        AGENT,
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values",
        "must be specified when `operator` is 'In'",
    ),
    "6 Exists with values": (
        ingress({"fromEndpoints": [{"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["x"]}]}]}),
        AGENT,
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values",
        "may not be specified",
    ),
    "6 an unknown operator": (
        ingress({"fromEndpoints": [{"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}]}),
        S,
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].operator",
        'Unsupported value: "Gt"',
    ),
    "7 two kinds of peers": (
        ingress({"fromEndpoints": [{}], "fromCIDR": ["10.0.0.0/8"]}),
        AGENT,
        "spec.ingress[0]",
        "combining FromCIDR and FromEndpoints is not supported yet",
    ),
    "7 names beside entities": (
        egress({"toFQDNs": [{"matchName": "x.io"}], "toEntities": ["all"]}),
        AGENT,
        "spec.egress[0]",
        "combining ToEntities and ToFQDNs",
    ),
    "8 nodes without the flag": (ingress({"fromNodes": [{}]}), AGENT, "spec.ingress[0].fromNodes", "enable-node-selector-labels"),
    "9 an unknown entity": (egress({"toEntities": ["kube-dns"]}), S, "spec.egress[0].toEntities[0]", 'Unsupported value: "kube-dns"'),
    "9 an entity that the schema lacks": (egress({"toEntities": ["world-ipv4"]}), S, "spec.egress[0].toEntities[0]", "world-ipv4"),
    "10 no CIDR at all": (ingress({"fromCIDR": ["ten"]}), S, "spec.ingress[0].fromCIDR[0]", "must be of type cidr"),
    "10 a bare address": (ingress({"fromCIDR": ["10.0.0.1"]}), S, "spec.ingress[0].fromCIDR[0]", "needs /32"),
    "10 a leading zero": (ingress({"fromCIDR": ["010.0.0.0/8"]}), AGENT, "spec.ingress[0].fromCIDR[0]", "unable to parse CIDR"),
    "11 a CIDR and a group": (ingress({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]}), S, SET, "found cidr, cidrGroupRef"),
    "11 neither": (ingress({"fromCIDRSet": [{"except": ["10.0.0.0/8"]}]}), S, SET, "exactly one of cidr"),
    "12 an exception outside": (
        ingress({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]}),
        AGENT,
        f"{SET}.except[0]",
        "does not contain exclude CIDR prefix 11.0.0.0/16",
    ),
    "12 an exception of the other family": (
        ingress({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["fd00::/16"]}]}),
        AGENT,
        f"{SET}.except[0]",
        "does not contain",
    ),
    "12 a wider exception": (
        ingress({"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/7"]}]}),
        AGENT,
        f"{SET}.except[0]",
        "does not contain",
    ),
    "13 too many ports": (ingress({"toPorts": ports(*MANY)}), S, f"{TO_PORTS}.ports", "at most 40"),
    "13 too many denied ports": (cnp(ingressDeny=[{"toPorts": ports(*MANY)}]), AGENT, "spec.ingressDeny[0].toPorts[0].ports", "max is 40"),
    "14 no port": (ingress({"toPorts": [{"ports": [{"protocol": "TCP"}]}]}), AGENT, f"{TO_PORTS}.ports[0].port", "port must be specified"),
    "15 out of range": (ingress({"toPorts": ports("70000")}), AGENT, f"{TO_PORTS}.ports[0].port", "out of range"),
    "15 empty": (ingress({"toPorts": ports("")}), S, f"{TO_PORTS}.ports[0].port", "should match"),
    "15 a number": (ingress({"toPorts": [{"ports": [{"port": 80}]}]}), S, f"{TO_PORTS}.ports[0].port", 'Invalid value: "integer"'),
    "15 octal digits": (ingress({"toPorts": ports("08")}), AGENT, f"{TO_PORTS}.ports[0].port", "octal"),
    "15 a long name": (ingress({"toPorts": ports("a-very-long-name")}), AGENT, f"{TO_PORTS}.ports[0].port", "unable to parse port"),
    "15 a long end": (
        ingress({"toPorts": [{"ports": [{"port": "1", "endPort": 70000}]}]}),
        S,
        f"{TO_PORTS}.ports[0].endPort",
        "less than or equal to 65535",
    ),
    "16 a protocol of its own": (ingress({"toPorts": ports("8/ICMP")}), S, f"{TO_PORTS}.ports[0].protocol", '"ICMP"'),
    "16 lower case": (ingress({"toPorts": ports("80/tcp")}), S, f"{TO_PORTS}.ports[0].protocol", '"tcp"'),
    "16 a port where there is none": (
        ingress({"toPorts": ports("80/VRRP")}),
        AGENT,
        f"{TO_PORTS}.ports[0].port",
        "port must be empty or 0",
    ),
    "17 HTTP on UDP": (ingress(l7(HTTP, "80/UDP")), AGENT, f"{TO_PORTS}.ports[0].protocol", "can only apply to TCP (not UDP)"),
    "17 HTTP on ANY": (ingress(l7(HTTP, "80/ANY")), AGENT, f"{TO_PORTS}.ports[0].protocol", "can only apply to TCP (not ANY)"),
    "17 HTTP without protocol": (ingress(l7(HTTP, "80")), AGENT, f"{TO_PORTS}.ports[0].protocol", "not ANY"),
    "18 HTTP on port 0": (ingress(l7(HTTP, "0/TCP")), AGENT, f"{TO_PORTS}.rules", "can not be used when a port is 0"),
    "19 DNS rules without ports": (
        egress({"toPorts": [{"rules": NAMES}]}),
        AGENT,
        "spec.egress[0].toPorts[0].rules.dns",
        "port 53 must be",
    ),
    "19 DNS rules with a range": (
        egress({"toPorts": [{"ports": [{"port": "53", "endPort": 54}], "rules": NAMES}]}),
        AGENT,
        "spec.egress[0].toPorts[0].ports[0].endPort",
        "do not support port ranges",
    ),
    "19 DNS rules on ingress": (ingress(l7(NAMES, "53/UDP")), AGENT, f"{TO_PORTS}.rules.dns", "not supported on ingress"),
    "20 two kinds of L7 rules": (egress(l7({**HTTP, **NAMES})), S, "spec.egress[0].toPorts[0].rules", "found http, dns"),
    "21 L7 on a node's ingress": (
        without(ccnp(nodeSelector={}, ingress=[l7(HTTP)]), "endpointSelector"),
        AGENT,
        f"{TO_PORTS}.rules",
        "not supported on host ingress",
    ),
    "21 HTTP on a node's egress": (
        without(ccnp(nodeSelector={}, egress=[l7(HTTP)]), "endpointSelector"),
        AGENT,
        "spec.egress[0].toPorts[0].rules.http",
        "not supported on host egress",
    ),
    "23 server names beside HTTP": (
        ingress({"toPorts": ports("443/TCP", rules=HTTP, serverNames=["x.io"])}),
        AGENT,
        f"{TO_PORTS}.serverNames",
        "ServerNames are not allowed with L7 rules",
    ),
    "23 an empty server name": (ingress({"toPorts": ports("443/TCP", serverNames=[""])}), S, f"{TO_PORTS}.serverNames[0]", "should match"),
    "24 a listener on ingress": (
        ingress({"toPorts": ports("80/TCP", listener=LISTENER)}),
        AGENT,
        f"{TO_PORTS}.listener",
        "not allowed on ingress",
    ),
    "24 a listener beside HTTP": (
        egress({"toPorts": ports("80/TCP", listener=LISTENER, rules=HTTP)}),
        AGENT,
        "spec.egress[0].toPorts[0].listener",
        "not allowed with L7 rules",
    ),
    "25 ICMP beside ports": (
        ingress({"icmps": [{"fields": [{"type": 8}]}], "toPorts": ports("80")}),
        AGENT,
        "spec.ingress[0].icmps",
        "may only be present without ToPorts",
    ),
    "26 too many ICMP fields": (
        ingress({"icmps": [{"fields": [{"type": number} for number in range(41)]}]}),
        S,
        "spec.ingress[0].icmps[0].fields",
        "at most 40",
    ),
    "26 a bad family": (
        ingress({"icmps": [{"fields": [{"type": 8, "family": "ipv4"}]}]}),
        S,
        "spec.ingress[0].icmps[0].fields[0].family",
        "Unsupported value",
    ),
    "26 an unknown name": (ingress({"icmps": [{"fields": [{"type": "Ping"}]}]}), S, "spec.ingress[0].icmps[0].fields[0].type", "Ping"),
    "26 text out of range": (ingress({"icmps": [{"fields": [{"type": "256"}]}]}), S, "spec.ingress[0].icmps[0].fields[0].type", "256"),
    "26 a name of the other family": (
        ingress({"icmps": [{"fields": [{"type": "PacketTooBig", "family": "IPv4"}]}]}),
        D,
        "spec.ingress[0].icmps[0].fields[0].type",
        "ICMP type PacketTooBig not found in IPv4",
    ),
    "27 a name and a pattern": (
        egress({"toFQDNs": [{"matchName": "x.io", "matchPattern": "*"}]}),
        S,
        "spec.egress[0].toFQDNs[0]",
        "found matchName, matchPattern",
    ),
    "28 bad characters": (egress({"toFQDNs": [{"matchName": "x y"}]}), S, "spec.egress[0].toFQDNs[0].matchName", "should match"),
    "28 too long": (egress({"toFQDNs": [{"matchPattern": "a" * 256}]}), S, "spec.egress[0].toFQDNs[0].matchPattern", "Too long"),
    "29 a path that does not compile": (
        ingress(l7({"http": [{"path": "/("}]})),
        AGENT,
        f"{TO_PORTS}.rules.http[0].path",
        "error parsing regexp",
    ),
    "29 a method that does not compile": (ingress(l7({"http": [{"method": "*"}]})), AGENT, f"{TO_PORTS}.rules.http[0].method", "regexp"),
    "30 a header without name": (
        ingress(l7({"http": [{"headerMatches": [{"value": "x"}]}]})),
        S,
        f"{TO_PORTS}.rules.http[0].headerMatches[0].name",
        "Required value",
    ),
    "30 a bad mismatch action": (
        ingress(l7({"http": [{"headerMatches": [{"name": "x", "mismatch": "DROP"}]}]})),
        S,
        f"{TO_PORTS}.rules.http[0].headerMatches[0].mismatch",
        "DROP",
    ),
    "30 a secret without name": (
        ingress(l7({"http": [{"headerMatches": [{"name": "x", "secret": {"name": ""}}]}]})),
        AGENT,
        f"{TO_PORTS}.rules.http[0].headerMatches[0].secret",
        "Secret name missing",
    ),
    "31 an unknown authentication mode": (
        ingress({"authentication": {"mode": "always"}}),
        S,
        "spec.ingress[0].authentication.mode",
        "Unsupported value",
    ),
    "32 a long log value": (ingress({}, log={"value": "x" * 33}), S, "spec.log.value", "Too long"),
    "32 a control character in it": (ingress({}, log={"value": "a\tb"}), S, "spec.log.value", "should match"),
    "33 fromRequires": (ingress({"fromRequires": [app("a")]}), S, "spec.ingress[0].fromRequires", "at most 0"),
}


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str) -> None:
    document, stage, path, text = ROWS[row]
    error = refused(document)
    assert error is not None, "accepted"
    assert (error.stage, error.path) == (stage, path), error
    assert text in error.message
    assert path in error.message


def test_rows_cover_the_table() -> None:
    """Rows 22, 34 and 35 have tests of their own below: they need an option, or show only at computation."""
    assert {int(row.split()[0]) for row in ROWS} | {22, 34, 35} == set(range(1, 36))


def test_row_22_the_proxy_is_off() -> None:
    error = refused(ingress(l7(HTTP)), l7_proxy=False)
    assert error is not None
    assert error.message == f"{TO_PORTS}.rules: L7 policy is not supported since L7 proxy is not enabled"


def test_row_25_icmp_rules_are_off() -> None:
    error = refused(ingress({"icmps": [{"fields": [{"type": 8}]}]}), icmp_rules=False)
    assert error is not None
    assert "enable-icmp-rules" in error.message


def test_row_34_a_listener_of_a_namespace_in_a_clusterwide_policy() -> None:
    """Shows at computation: the endpoint gets no policy."""
    policy = ccnp(egress=[{"toPorts": ports("80/TCP", listener=LISTENER)}])
    assert refused(policy) is None
    verdict = ask("a/web -> a/a1:80", policy)
    assert verdict.egress.decision is Decision.ERROR
    assert "can not use Kind CiliumEnvoyConfig" in verdict.egress.note


CONFLICTS = {
    "authentication modes": (
        {"authentication": {"mode": "required"}, "toPorts": ports("80/TCP")},
        {"authentication": {"mode": "test-always-fail"}, "toPorts": ports("80/TCP")},
        "cannot merge conflicting authentication types (required/test-always-fail)",
    ),
    "parsers": (
        {"toPorts": ports("53/TCP", rules=HTTP)},
        {"toPorts": ports("53/TCP", rules=NAMES)},
        "cannot merge conflicting L7 parsers (http/dns)",
    ),
    "server names and HTTP rules": (
        {"toPorts": ports("443/TCP", rules=HTTP)},
        {"toPorts": ports("443/TCP", serverNames=["x.io"])},
        "with SNI filtering without TLS termination",
    ),
    "TLS contexts": (
        {"toPorts": ports("443/TCP", terminatingTLS={"secret": {"name": "one"}})},
        {"toPorts": ports("443/TCP", terminatingTLS={"secret": {"name": "two"}})},
        "cannot merge conflicting terminating TLS contexts",
    ),
    "listeners": (
        {"toPorts": ports("80/TCP", listener=LISTENER)},
        {"toPorts": ports("80/TCP", listener={**LISTENER, "name": "other"})},
        "cannot merge conflicting CiliumEnvoyConfig Listeners",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_row_35_a_merge_conflict(name: str) -> None:
    one, other, text = CONFLICTS[name]
    verdict = ask("a/web -> a/a1:80", cnp("p", egress=[one]), cnp("q", egress=[other]))
    assert verdict.egress.decision is Decision.ERROR
    assert verdict.verdict == "error"
    assert text in verdict.egress.note


@pytest.mark.parametrize("name", CONFLICTS)
def test_a_deny_of_the_same_peers_and_port_leaves_no_conflict(name: str) -> None:
    one, other, _ = CONFLICTS[name]
    deny = {"toPorts": [{"ports": one["toPorts"][0]["ports"]}]}
    verdict = ask("a/web -> a/a1:80", cnp("a-first", egressDeny=[deny]), cnp("p", egress=[one]), cnp("q", egress=[other]))
    assert verdict.egress.decision is not Decision.ERROR


VERSIONS: dict[str, tuple[Document, dict[str, str]]] = {
    "GRE": (ingress({"toPorts": ports("0/GRE")}), {"1.18": S, "1.19": S, "1.20": ""}),
    "cluster-mesh": (ingress({"fromEntities": ["cluster-mesh"]}), {"1.18": S, "1.19": S, "1.20": ""}),
    "Kafka": (ingress(l7({"kafka": [{"topic": "t"}]}, "9092/TCP")), {"1.18": "", "1.19": "", "1.20": S}),
    "fromRequires": (ingress({"fromRequires": [app("a")]}), {"1.18": "", "1.19": S, "1.20": S}),
    "a wider exception": (ROWS["12 a wider exception"][0], {"1.18": "", "1.19": "", "1.20": AGENT}),
    "a key that begins with a dash": (ROWS["6 a bad key"][0], {"1.18": "", "1.19": "", "1.20": AGENT}),
    "a key of 61 characters": (
        ingress({"fromEndpoints": [{"matchLabels": {"a" * 61: "y"}}]}),
        {"1.18": AGENT, "1.19": AGENT, "1.20": ""},
    ),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_differ(name: str) -> None:
    document, expected = VERSIONS[name]
    found = {version: refused(document, version) for version in expected}
    assert {version: str(error.stage) if error else "" for version, error in found.items()} == expected


ACCEPTED = {
    "VRRP with the flag off": ingress({"toPorts": ports("0/VRRP")}),
    "a numeric ICMP type out of range": ingress({"icmps": [{"fields": [{"type": 256}]}]}),
    "a name and no pattern in a DNS rule": egress(l7({"dns": [{"matchName": "x.io"}]}, "53/UDP")),
    "null lists": ingress({"fromEndpoints": None, "toPorts": ports("80")}),
    "unknown fields, which the API server drops": ingress({"fromEndpoint": [{}]}),
    "an upper-case port name": ingress({"toPorts": ports("HTTP/TCP")}),
    "an octal port": ingress({"toPorts": ports("010/TCP")}),
    "one direction empty": cnp(ingress=[], egress=[{}]),
    "an empty list beside another kind": ingress({"fromEndpoints": [{}], "fromCIDR": []}),
    "HTTP with server names and termination": ingress({
        "toPorts": ports("443/TCP", rules=HTTP, serverNames=["x.io"], terminatingTLS={"secret": {"name": "s"}})
    }),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    assert refused(ACCEPTED[name]) is None


KNP: dict[str, tuple[Document, str, str]] = {
    "text for a port": (knp(ingress=[{"ports": [{"port": "80"}]}]), "spec.ingress[0].ports[0].port", "write 80 without quotes"),
    "port 0": (knp(ingress=[{"ports": [{"port": 0}]}]), "spec.ingress[0].ports[0].port", "between 1 and 65535"),
    "an end before the port": (
        knp(ingress=[{"ports": [{"port": 80, "endPort": 79}]}]),
        "spec.ingress[0].ports[0].endPort",
        "greater than or",
    ),
    "an end without a port": (knp(ingress=[{"ports": [{"endPort": 79}]}]), "spec.ingress[0].ports[0].endPort", "`port` is not specified"),
    "an end to a name": (knp(ingress=[{"ports": [{"port": "http", "endPort": 79}]}]), "spec.ingress[0].ports[0].endPort", "non-numeric"),
    "an unknown protocol": (knp(ingress=[{"ports": [{"protocol": "ICMP"}]}]), "spec.ingress[0].ports[0].protocol", '"ICMP"'),
    "an empty peer": (knp(ingress=[{"from": [{}]}]), "spec.ingress[0].from[0]", "must specify a peer"),
    "a block and a selector": (
        knp(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]),
        "spec.ingress[0].from[0]",
        "both ipBlock and another peer",
    ),
    "a block that is none": (knp(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.1"}}]}]), "spec.egress[0].to[0].ipBlock.cidr", "valid CIDR"),
    "an exception outside": (
        knp(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}]),
        "spec.egress[0].to[0].ipBlock.except[0]",
        "strict subset",
    ),
    "an unknown policy type": (knp(policyTypes=["ingress"]), "spec.policyTypes[0]", '"ingress"'),
    "a bad label": (knp(subject={"matchLabels": {"app": "-"}}), "spec.podSelector.matchLabels.app", "label value"),
    "a source in a key": (knp(subject={"matchLabels": {"k8s:app": "x"}}), "spec.podSelector.matchLabels", "name part"),
    "In without values": (
        knp(ingress=[{"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In"}]}}]}]),
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].values",
        "must be specified when `operator` is 'In'",
    ),
    "an unknown operator": (
        knp(egress=[{"to": [{"namespaceSelector": {"matchExpressions": [{"key": "app", "operator": "in", "values": ["x"]}]}}]}]),
        "spec.egress[0].to[0].namespaceSelector.matchExpressions[0].operator",
        'Unsupported value: "in"',
    ),
    "an exception as wide as the block": (
        knp(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]),
        "spec.ingress[0].from[0].ipBlock.except[0]",
        "strict subset",
    ),
    "an exception of the other family": (
        knp(ingress=[{"from": [{"ipBlock": {"cidr": "::/0", "except": ["10.0.0.0/8"]}}]}]),
        "spec.ingress[0].from[0].ipBlock.except[0]",
        "strict subset",
    ),
    "a port beyond the last": (knp(ingress=[{"ports": [{"port": 65536}]}]), "spec.ingress[0].ports[0].port", "between 1 and 65535"),
    "an end beyond the last": (
        knp(ingress=[{"ports": [{"port": 80, "endPort": 65536}]}]),
        "spec.ingress[0].ports[0].endPort",
        "less than or equal to 65535",
    ),
    "a namespace that is no text": ({**knp(), "metadata": {"name": "p", "namespace": 5}}, "metadata.namespace", "must be of type string"),
    "a name that is no text": ({**knp(), "metadata": {"name": True, "namespace": "a"}}, "metadata.name", "must be of type string"),
    "a Cilium field of another type": (knp(ingress={"from": []}), "spec.ingress", "must be of type array"),
}


@pytest.mark.parametrize("name", KNP)
def test_network_policy(name: str) -> None:
    document, path, text = KNP[name]
    error = refused(document)
    assert error is not None
    assert (error.stage, error.path) == (S, path)
    assert text in error.message


def test_the_wrong_api_version_is_refused() -> None:
    error = refused({**ingress({}), "apiVersion": "networking.k8s.io/v1"})
    assert error is not None
    assert str(error) == (
        'schema: apiVersion: no matches for kind "CiliumNetworkPolicy" in version "networking.k8s.io/v1": write cilium.io/v2'
    )


def test_one_bad_member_of_specs_refuses_the_whole_policy() -> None:
    document = ingress({})
    document["specs"] = [document["spec"], {"endpointSelector": {}, "ingress": []}]
    error = refused(document)
    assert error is not None
    assert (error.stage, error.path) == (AGENT, "specs[1]")
    assert ask("a/a1 -> a/web:8080", document).verdict == "allow"


def test_a_refused_update_leaves_the_earlier_version_enforced() -> None:
    first = evaluator(ingress({}))
    bad = first.repository.change(apply=[cnp(ingress=[], egress=[])])
    ref = PolicyRef("CiliumNetworkPolicy", "a", "p")
    assert set(bad.errors) == {ref}
    assert bad.policy(ref) is first.repository.policy(ref)
    good = bad.change(apply=[ingress({"fromEntities": ["all"]})])
    assert not good.errors
    assert good.policy(ref) is not first.repository.policy(ref)
    assert not bad.change(remove=[ref]).enforced
