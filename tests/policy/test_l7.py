"""HTTP, DNS and TLS names above an allowed connection: matching, combining, and what the model cannot know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.traffic import Request, RequestKind
from harness.model.verdict import L7Decision
from harness.policy.l7 import http_answer, normalised, server_name_matches
from harness.policy.rules import HTTPRule
from tests.policy.policy_worlds import Document, app, ask, cnp, evaluator, law, ports, traffic

A = "a/a1 -> a/web:8080"


def http(*rules: Document, port: str = "8080/TCP", **more: Any) -> Document:
    return {"toPorts": ports(port, rules={"http": list(rules)}), **more}


def get(path: str = "/", host: str = "", method: str = "GET", **headers: str) -> Request:
    return Request(RequestKind.HTTP, method, path, host, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


def answers(rule: Document, request: Request) -> L7Decision:
    made = evaluator(cnp(ingress=[http(rule)]))
    asked = traffic(A)
    return made.verdict(type(asked)(asked.source, asked.destination, asked.protocol, asked.port, request)).l7


MATCHES: list[tuple[Document, Request, str]] = [
    ({"path": "/api/.*"}, get("/api/v1"), "allow"),
    ({"path": "/api/.*"}, get("/xapi/v1"), "deny"),
    ({"path": "/api"}, get("/api/"), "deny"),
    ({"path": "/(a|b)"}, get("/b"), "allow"),
    ({"path": "/[[:digit:]]+"}, get("/42"), "allow"),
    ({"path": "/a"}, get("/x/../a"), "allow"),
    ({"path": "/a"}, get("//a"), "allow"),
    ({"path": "/a"}, get("/%61"), "allow"),
    ({"path": "/public/.*"}, get("/public/../private"), "deny"),
    ({"path": "/a.*"}, get("/a%2Fb"), "unknown"),
    ({"method": "GET"}, get(), "allow"),
    ({"method": "GET"}, get(method="POST"), "deny"),
    ({"method": "GET|HEAD"}, get(method="HEAD"), "allow"),
    ({"method": "get"}, get(), "deny"),
    ({"host": "api\\.shop"}, get(host="api.shop"), "allow"),
    ({"host": "api\\.shop"}, get(host="api.shop:8080"), "deny"),
    ({"host": "api.shop"}, get(host="apixshop"), "allow"),
    ({"host": "api.shop"}, get(), "unknown"),
    ({"host": "api.shop", "path": "/a"}, get("/b"), "deny"),
    ({"headers": ["X-Key: 42"]}, get(x_key="42"), "allow"),
    ({"headers": ["X-Key 42"]}, get(x_key="42"), "allow"),
    ({"headers": ["X-Key: .*"]}, get(x_key="42"), "deny"),
    ({"headers": ["X-Key: .*"]}, get(x_key=".*"), "allow"),
    ({"headers": ["X-Key"]}, get(x_key="anything"), "allow"),
    ({"headers": ["X-Key:42"]}, get(x_key="42"), "deny"),
    ({"headers": ["X-Key: a b"]}, get(x_key="a b"), "allow"),
    ({"headerMatches": [{"name": "X-Key", "value": "42"}]}, get(x_key="42"), "allow"),
    ({"headerMatches": [{"name": "X-Key", "value": "42"}]}, get(x_key="43"), "deny"),
    ({"headerMatches": [{"name": "X-Key"}]}, get(x_key="43"), "allow"),
    ({"headerMatches": [{"name": "X-Key"}]}, get(), "deny"),
    ({"headerMatches": [{"name": "X-Key", "value": "42", "mismatch": "LOG"}]}, get(), "allow"),
    ({"headerMatches": [{"name": "X-Key", "value": "42", "mismatch": "REPLACE"}]}, get(x_key="1"), "allow"),
    ({"headerMatches": [{"name": "X-Key", "secret": {"name": "s"}}]}, get(x_key="1"), "unknown"),
    ({}, get("/anything"), "allow"),
]


@pytest.mark.parametrize(("rule", "request_", "expected"), MATCHES, ids=lambda value: str(value)[:60])
def test_one_rule(rule: Document, request_: Request, expected: str) -> None:
    assert answers(rule, request_) == expected


def test_grpc_is_a_post_to_its_method() -> None:
    rules = (HTTPRule(path="/pkg.Greeter/Say.*", method="POST"),)
    assert http_answer(rules, Request(RequestKind.GRPC, path="/pkg.Greeter/SayHello")).decision == "allow"
    assert http_answer(rules, Request(RequestKind.GRPC, path="/pkg.Greeter/Run")).decision == "deny"


@law(100)
@given(st.text(st.sampled_from("/.a%?2fF\\"), max_size=12).map(lambda text: f"/{text}"))
def test_normalising_twice_is_normalising_once(path: str) -> None:
    once, redirects = normalised(path)
    if not redirects and "%" not in once:
        assert normalised(once) == (once, False)
        assert "//" not in once.partition("?")[0]


ALL = {"fromEntities": ["all"]}
COMBINED: dict[str, tuple[list[Document], str]] = {
    "rules of one port unite": ([http({"path": "/a"}), http({"path": "/private"})], "allow"),
    "an L7 rule alone": ([http({"path": "/a"})], "deny"),
    "an empty list of rules is none": ([{"toPorts": ports("8080/TCP", rules={"http": []})}], "allow"),
    "a plain allow of the port beside it": ([http({"path": "/a"}), {"toPorts": ports("8080/TCP")}], "allow"),
    "a plain allow of every port": ([http({"path": "/a"}), ALL], "allow"),
    "a plain allow of a range": (
        [http({"path": "/a"}), {"toPorts": [{"ports": [{"port": "8000", "endPort": 9000, "protocol": "TCP"}]}]}],
        "allow",
    ),
    "a plain allow for another peer": ([http({"path": "/a"}), {"fromEndpoints": [app("b")]}], "deny"),
    "a plain allow of another port": ([http({"path": "/a"}), {"toPorts": ports("9090/TCP")}], "deny"),
    "rules for two selectors that both match": (
        [http({"path": "/a"}, fromEndpoints=[app("a")]), http({"path": "/private"}, **ALL)],
        "allow",
    ),
}


@pytest.mark.parametrize("name", COMBINED)
def test_rules_combine(name: str) -> None:
    elements, expected = COMBINED[name]
    assert ask(f"{A} GET /private", cnp(ingress=elements)).l7 == expected
    policies = [cnp(f"p{index}", ingress=[each]) for index, each in enumerate(elements)]
    assert ask(f"{A} GET /private", *policies).l7 == expected, "in policies of their own"


def test_a_deny_rule_wins_before_any_proxy() -> None:
    verdict = ask(f"{A} GET /a", cnp(ingress=[http({"path": "/a"})], ingressDeny=[{"fromEndpoints": [app("a")]}]))
    assert verdict.ingress.decision == "deny-rule"
    assert verdict.l7 == "allow", "the egress side has no say against it"
    assert verdict.verdict == "deny"
    assert not verdict.ingress.redirected


def test_without_default_deny_an_l7_rule_only_watches() -> None:
    policy = cnp(ingress=[http({"path": "/a"})], enableDefaultDeny={"ingress": False})
    verdict = ask(f"{A} GET /private", policy)
    assert verdict.l7 == "allow"
    assert verdict.ingress.redirected


def test_the_nodes_own_requests_pass() -> None:
    assert ask("host -> a/web:8080 GET /private", cnp(ingress=[http({"path": "/a"}, **ALL)])).l7 == "allow"


def test_both_sides_filter() -> None:
    client = cnp("client", subject=app("a"), egress=[http({"path": "/(a|b)"})])
    server = cnp("server", ingress=[http({"path": "/(b|c)"})])
    assert [ask(f"{A} GET /{path}", client, server).l7 for path in "abc"] == ["deny", "allow", "deny"]
    assert ask(f"{A} GET /a", client, server).dropped_at == "ingress"


def test_where_no_proxy_is_everything_passes() -> None:
    assert ask(f"{A} GET /x", cnp(ingress=[{"toPorts": ports("8080/TCP")}])).l7 == "allow"
    assert ask(f"{A} GET /x").l7 == "allow"
    assert ask(A).l7 == "n/a"
    assert ask("host -> remote-node:80 GET /x").l7 == "n/a"


def test_dns_rules_of_one_port_unite_and_names_ignore_case() -> None:
    def dns(**rule: str) -> Document:
        return {"toEndpoints": [app("a")], "toPorts": ports("53/UDP", rules={"dns": [rule]})}

    policies = [cnp("p", egress=[dns(matchName="One.io")]), cnp("q", egress=[dns(matchPattern="*.two.io")])]

    def lookup(name: str) -> str:
        return ask(f"a/web -> a/a1:53/UDP lookup {name}", *policies).l7

    assert [lookup(name) for name in ("one.io", "ONE.IO.", "a.two.io", "two.io", "x.org")] == ["allow"] * 3 + ["deny"] * 2


def test_a_request_that_is_no_lookup_does_not_pass_the_dns_proxy() -> None:
    policy = cnp(egress=[{"toPorts": ports("53/TCP", rules={"dns": [{"matchPattern": "*"}]})}])
    verdict = ask("a/web -> a/a1:53 GET /", policy)
    assert verdict.l7 == "deny"
    assert "DNS messages only" in verdict.egress.note


SERVER_NAMES = [
    ("x.io", "x.io", True),
    ("x.io", "X.IO", True),
    ("x.io", "a.x.io", False),
    ("*.x.io", "a.x.io", True),
    ("*.x.io", "x.io", False),
    ("*.x.io", "a.b.x.io", False),
    ("**.x.io", "a.b.x.io", True),
    ("**.x.io", "a.x.io", True),
    ("**.x.io", "x.io", False),
    ("*", "any.thing", True),
    ("*", "", False),
    ("a*.io", "abc.io", True),
    ("a*.io", "a.b.io", False),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), SERVER_NAMES)
def test_server_names(pattern: str, name: str, expected: bool) -> None:
    assert server_name_matches(pattern, name) is expected


def test_one_server_name_makes_it_required_for_all_rules_of_the_port() -> None:
    """Stricter than the rules by themselves: Cilium merges what has the same peers and port."""
    sni = {"toPorts": ports("443/TCP", serverNames=["x.io"])}
    plain = {"toPorts": ports("443/TCP")}
    assert ask("a/web -> a/a1:443 sni y.io", cnp(egress=[sni, plain])).l7 == "deny"
    assert ask("a/web -> a/a1:443 sni y.io", cnp(egress=[sni, {"toEndpoints": [app("a")], **plain}])).l7 == "allow"


def test_plain_http_has_no_server_name() -> None:
    verdict = ask("a/web -> a/a1:443 GET /", cnp(egress=[{"toPorts": ports("443/TCP", serverNames=["x.io"])}]))
    assert verdict.l7 == "deny"
    assert "server name" in verdict.egress.note


def test_tls_through_an_http_rule_does_not_pass() -> None:
    assert ask(f"{A} sni x.io", cnp(ingress=[http({"path": "/a"})])).l7 == "deny"


def test_a_custom_listener_is_unknown() -> None:
    listener = {"envoyConfig": {"kind": "CiliumClusterwideEnvoyConfig", "name": "e"}, "name": "l"}
    policy = cnp(egress=[{"toPorts": ports("80/TCP", listener=listener)}])
    verdict = ask("a/web -> a/a1:80 GET /", policy)
    assert (verdict.l7, verdict.verdict) == ("unknown", "unknown")
    assert ask("a/web -> a/a1:80", policy).verdict == "allow"
