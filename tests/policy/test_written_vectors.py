"""The 34 vectors of the semantics, each with its question: who reaches whom under one or two policies.

Pods: a1 (app=a) and a2 (app=b) in namespace a, b1 (app=a) in b, web (app=web, http=8080) in a.
"""

from __future__ import annotations

import pytest

from tests.policy.policy_worlds import app, ask, ccnp, cnp, knp, ports

A, DD, DENY = "allow", "default-deny", "deny-rule"
P8080 = ports("8080/TCP")
NS = "k8s:io.kubernetes.pod.namespace"
FROM_A = [{"fromEndpoints": [app("a")]}]
DENY_A = cnp(ingressDeny=FROM_A)
ALL = [{"fromEntities": ["all"]}]

VECTORS = {
    "1 an empty rule denies all but the node's own": (
        [cnp(ingress=[{}])],
        {"a/a1 -> a/web:8080": DD, "a/web -> a/a1:80": A, "host -> a/web:8080": A},
    ),
    "2 only empty lists: refused, so nothing is enforced": ([cnp(ingress=[], egress=[])], {"a/a1 -> a/web:8080": A}),
    "3 an empty peer selector is the own namespace": (
        [cnp(ingress=[{"fromEndpoints": [{}]}])],
        {"a/a1 -> a/web:8080": A, "b/b1 -> a/web:8080": DD, "world:8.8.8.8 -> a/web:8080": DD, "remote-node -> a/web:8080": DD},
    ),
    "4 the namespace is injected": ([cnp(ingress=FROM_A)], {"a/a1 -> a/web:8080": A, "b/b1 -> a/web:8080": DD}),
    "5 another namespace by its key": (
        [cnp(ingress=[{"fromEndpoints": [{"matchLabels": {"app": "a", NS: "b"}}]}])],
        {"a/a1 -> a/web:8080": DD, "b/b1 -> a/web:8080": A},
    ),
    "6 any namespace": (
        [
            cnp(
                ingress=[
                    {"fromEndpoints": [{**app("a"), "matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]}]}
                ]
            )
        ],
        {"a/a1 -> a/web:8080": A, "b/b1 -> a/web:8080": A},
    ),
    "7 clusterwide, an empty peer selector is every pod": (
        [ccnp(ingress=[{"fromEndpoints": [{}]}])],
        {
            "a/a1 -> a/web:8080": A,
            "b/b1 -> a/web:8080": A,
            "host -> a/web:8080": A,
            "world:8.8.8.8 -> a/web:8080": DD,
            "health -> a/web:8080": DD,
        },
    ),
    "8 a port for anyone": (
        [cnp(ingress=[{"toPorts": P8080}])],
        {"world:8.8.8.8 -> a/web:8080": A, "a/a1 -> a/web:8080/UDP": DD, "a/a1 -> a/web ping": DD},
    ),
    "9 ANY is TCP, UDP and SCTP, not ICMP": (
        [cnp(ingress=[{"toPorts": ports("8080/ANY")}])],
        {"a/a1 -> a/web:8080": A, "a/a1 -> a/web:8080/UDP": A, "a/a1 -> a/web:8080/SCTP": A, "a/a1 -> a/web ping": DD},
    ),
    "10 an empty peer list is nobody": (
        [cnp(ingress=[{"fromEndpoints": [], "toPorts": P8080}])],
        {"a/a1 -> a/web:8080": DD, "b/b1 -> a/web:8080": DD, "world:8.8.8.8 -> a/web:8080": DD},
    ),
    "11 a deny alone turns on default deny": ([DENY_A], {"a/a1 -> a/web:8080": DENY, "a/a2 -> a/web:8080": DD}),
    "12 a deny beside allow all": (
        [cnp(ingressDeny=FROM_A, ingress=ALL)],
        {"a/a1 -> a/web:8080": DENY, "a/a2 -> a/web:8080": A, "b/b1 -> a/web:8080": A, "world:8.8.8.8 -> a/web:8080": A},
    ),
    "13 a deny without default deny": (
        [cnp(ingressDeny=FROM_A, enableDefaultDeny={"ingress": False})],
        {"a/a1 -> a/web:8080": DENY, "a/a2 -> a/web:8080": A, "world:8.8.8.8 -> a/web:8080": A},
    ),
    "14 a denied port beats an allowed peer": (
        [cnp(ingress=FROM_A, ingressDeny=[{"toPorts": P8080}])],
        {"a/a1 -> a/web:8080": DENY, "a/a1 -> a/web:9090": A},
    ),
    "15 a broad deny beats a narrow allow": (
        [cnp(ingress=[{**FROM_A[0], "toPorts": P8080}], ingressDeny=FROM_A)],
        {"a/a1 -> a/web:8080": DENY},
    ),
    "16 a denied range beats an allowed port in it": (
        [
            cnp(
                ingress=[{"toPorts": P8080}],
                ingressDeny=[{"toPorts": [{"ports": [{"port": "8000", "endPort": 9000, "protocol": "TCP"}]}]}],
            )
        ],
        {"a/a1 -> a/web:8080": DENY, "a/a1 -> a/web:7999": DD},
    ),
    "17 0.0.0.0/0 is what is outside": (
        [cnp(egress=[{"toCIDR": ["0.0.0.0/0"]}])],
        {
            "a/web -> world:8.8.8.8:443": A,
            "a/web -> a/a1:443": DD,
            "a/web -> host:443": DD,
            "a/web -> remote-node:443": DD,
            "a/web -> world:2001:db8::1:443": DD,
        },
    ),
    "18 an exception holds for its own rule": (
        [cnp(egress=[{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12"]}]}])],
        {"a/web -> world:10.1.1.1:443": A, "a/web -> world:10.97.0.1:443": DD},
    ),
    "18 another rule allows the exception": (
        [cnp(egress=[{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12"]}]}, {"toCIDR": ["10.97.0.0/16"]}])],
        {"a/web -> world:10.1.1.1:443": A, "a/web -> world:10.97.0.1:443": A},
    ),
    "19 the cluster entity": (
        [cnp(egress=[{"toEntities": ["cluster"]}])],
        {
            "a/web -> a/a1:80": A,
            "a/web -> host:80": A,
            "a/web -> remote-node:80": A,
            "a/web -> kube-apiserver:443": A,
            "a/web -> world:8.8.8.8:443": DD,
        },
    ),
    "20 NetworkPolicy: an empty rule allows all": (
        [knp(ingress=[{}])],
        {"a/a1 -> a/web:8080": A, "b/b1 -> a/web:8080": A, "world:8.8.8.8 -> a/web:8080": A},
    ),
    "20 NetworkPolicy: no rule denies all": (
        [knp(policyTypes=["Ingress"])],
        {"a/a1 -> a/web:8080": DD, "world:8.8.8.8 -> a/web:8080": DD, "host -> a/web:8080": A},
    ),
    "21 NetworkPolicy: both selectors in one peer": (
        [
            knp(
                ingress=[
                    {
                        "from": [
                            {
                                "namespaceSelector": {"matchLabels": {"team": "x"}},
                                "podSelector": app("a"),
                            }
                        ]
                    }
                ]
            )
        ],
        {"a/a1 -> a/web:8080": A, "a/a2 -> a/web:8080": DD, "b/b1 -> a/web:8080": DD, "c/c1 -> a/web:8080": A},
    ),
    "21 NetworkPolicy: each selector a peer of its own": (
        [knp(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "y"}}}, {"podSelector": app("b")}]}])],
        {"a/a1 -> a/web:8080": DD, "a/a2 -> a/web:8080": A, "b/b1 -> a/web:8080": A, "c/c1 -> a/web:8080": DD},
    ),
    "27 a named port of the endpoint itself": (
        [cnp(ingress=[{"toPorts": ports("http/TCP")}])],
        {"a/a1 -> a/web:8080": A, "a/a1 -> a/web:80": DD},
    ),
    "27 a pod without the name": (
        [cnp(subject=app("a"), ingress=[{"toPorts": ports("http/TCP")}])],
        {"a/web -> a/a1:8080": DD},
    ),
    "28 both sides must allow": (
        [cnp(subject=app("a"), egress=[{}])],
        {"a/a1 -> a/web:8080": DD, "a/a2 -> a/web:8080": A},
    ),
    "30 two kinds of peers in one rule: refused": (
        [cnp(ingress=[{"fromEndpoints": [{}], "fromCIDR": ["10.0.0.0/8"]}])],
        {"world:8.8.8.8 -> a/web:8080": A},
    ),
    "31 ping alone": (
        [cnp(ingress=[{"icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]}])],
        {"a/a1 -> a/web ping": A, "a/a1 -> a/web:8080": DD, "a/a1 -> a/web ping6": DD},
    ),
    "32 health is an endpoint, and none of the pods": (
        [ccnp(subject={}, ingress=[{"fromEndpoints": [{}]}], egress=[{"toEndpoints": [{}]}])],
        {"a/a1 -> a/web:8080": A, "health -> a/web:8080": DD, "a/a1 -> health:4240": DD},
    ),
    "33 authentication that nothing processes": (
        [cnp(ingress=[{"authentication": {"mode": "required"}, "toPorts": P8080}])],
        {"a/a1 -> a/web:8080": "auth", "a/a1 -> a/web:81": DD},
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    policies, expected = VECTORS[name]
    answers = {}
    for text in expected:
        verdict = ask(text, *policies)
        denied = [side.decision for side in (verdict.egress, verdict.ingress) if side.decision.denies]
        answers[text] = str(denied[0]) if denied else A
    assert answers == expected


PUBLIC = {"http": [{"path": "/public"}]}
PREFIX = {"http": [{"path": "/public.*"}]}
A_ON_8080 = {**FROM_A[0], "toPorts": ports("8080/TCP", rules=PUBLIC)}
DNS_RULE = ports("53/ANY", rules={"dns": [{"matchPattern": "*.example.com"}]})
HEADER = ports("8080/TCP", rules={"http": [{"headers": ["X-Key: 42"]}]})

REQUESTS = {
    "22 a path is matched in full, query and all": (
        [cnp(ingress=[{"toPorts": ports("8080/TCP", rules=PUBLIC)}])],
        {"GET /public": A, "GET /public/x": "deny", "GET /public?x=1": "deny"},
    ),
    "22 a path with .* is a prefix": (
        [cnp(ingress=[{"toPorts": ports("8080/TCP", rules=PREFIX)}])],
        {"GET /public": A, "GET /public/x": A, "GET /public?x=1": A},
    ),
    "23 a plain allow of the port lets every request pass": (
        [cnp(ingress=[A_ON_8080, {"fromEndpoints": [{}], "toPorts": P8080}])],
        {"GET /private": A, "GET /public": A},
    ),
    "24 an allow of the peer lets every request pass": ([cnp(ingress=[A_ON_8080, FROM_A[0]])], {"GET /private": A}),
    "26 a header is compared literally": (
        [cnp(ingress=[{"toPorts": HEADER}])],
        {"GET / X-Key: 42": A, "GET / X-Key: 421": "deny", "GET /": "deny", "GET / x-key: 42": A},
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_vector(name: str) -> None:
    policies, expected = REQUESTS[name]
    assert {text: ask(f"a/a1 -> a/web:8080 {text}", *policies).l7 for text in expected} == expected


@pytest.mark.parametrize(
    ("beside", "other"),
    [
        pytest.param([], "deny", id="25 alone"),
        pytest.param([{"toEndpoints": [app("a")]}], "deny", id="25 an allow of the peer does not lift it"),
        pytest.param([{"toEndpoints": [app("a")], "toPorts": ports("53/ANY")}], A, id="25 an allow of the port does"),
        pytest.param(
            [{"toEndpoints": [app("a")], "toPorts": [{"ports": [{"port": "50", "endPort": 60, "protocol": "UDP"}]}]}],
            "deny",
            id="25 an allow of a range does not",
        ),
    ],
)
def test_dns_vector(beside: list[dict], other: str) -> None:
    policy = cnp(egress=[{"toEndpoints": [app("a")], "toPorts": DNS_RULE}, *beside])
    assert ask("a/web -> a/a1:53/UDP lookup www.example.com", policy).l7 == A
    assert ask("a/web -> a/a1:53/UDP lookup other.org", policy).l7 == other


def test_vector_34_a_server_name() -> None:
    policy = cnp(egress=[{"toPorts": ports("443/TCP", serverNames=["*.x.io"])}])

    def sni(name: str) -> str:
        return ask(f"a/web -> world:8.8.8.8:443 sni {name}", policy).l7

    assert sni("a.x.io") == "allow"
    assert [sni(name) for name in ("x.io", "a.b.x.io", "")] == ["deny"] * 3


def test_vector_29_replies_are_not_asked() -> None:
    """The model judges the direction a connection is opened in; the client's ingress policy does not come into it."""
    verdict = ask("a/a1 -> a/web:8080", cnp(subject=app("a"), ingress=[{}]))
    assert verdict.verdict == "allow"
    assert not verdict.egress.enforced
