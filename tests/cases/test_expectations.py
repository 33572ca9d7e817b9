from __future__ import annotations

from typing import Any

import pytest

from harness.cases.case import Action, Case, Expectation, FamilyChoice, Party, PartyKind, Reason, Target
from harness.cases.expectations import parse_expectation
from harness.errors import CaseError, Location
from harness.model.traffic import Direction, Protocol, Request, RequestKind
from harness.model.verdict import PolicyRef
from tests.cases.case_folder import Folder

HERE = Location("nowhere.py", 1)
SHOP = """\
case: shop
namespace: shop
endpoints:
  web: {labels: {app: web}}
  job: {namespace: dev}
  api:
    labels: {app: api}
    replicas: 2
    ports: [8080, {port: 9090, name: metrics}, {port: 53, protocol: UDP, name: dns}, {port: 7, protocol: SCTP}]
  agent: {hostNetwork: true, node: b, ports: [9100, {port: 9091, name: metrics}]}
services:
  api: {selector: {app: api}, ports: [{port: 80, targetPort: 8080, name: http}, {port: 90, targetPort: metrics}]}
externals:
  stripe: {names: [api.stripe.com], ports: [443]}
  internet: {addresses: ["2001:db8:113::10", 203.0.113.10], ports: [443]}
phases:
  baseline:
    policies: [{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: api}, spec: {}}]
    expect:
      - allow: web -> api:8080
"""


def endpoint(name: str) -> Party:
    return Party(PartyKind.ENDPOINT, name)


@pytest.fixture
def shop(folder: Folder) -> Case:
    return folder.case(SHOP)


def expectation(shop: Case, value: str | dict[str, Any]) -> Expectation:
    return parse_expectation(value, shop, shop.phases[0].policies, HERE)


def parties(shop: Case, text: str) -> tuple[list[str], list[str]]:
    found = expectation(shop, text)
    return [str(each) for each in found.sources], [f"{each.party}:{each.port}/{each.protocol}" for each in found.targets]


def test_an_expectation_in_one_text(shop: Case):
    found = expectation(shop, "allow: web -> api:8080")
    assert found == Expectation(
        Action.ALLOW, "web -> api:8080", (endpoint("web"),), (Target(endpoint("api"), 8080, Protocol.TCP, "api:8080"),), found.location
    )


def test_everything_beside_the_text(shop: Case):
    found = expectation(
        shop,
        {
            "deny": "web -> api:8080",
            "reason": ["l7", "deny-rule"],
            "at": "ingress",
            "by": "api",
            "http": {"method": "POST", "path": "/pay", "host": "api.shop", "headers": {"X-Version": "1.10"}},
            "status": 403,
            "family": "both",
            "timeout": "200ms",
            "within": 3,
        },
    )
    assert found.action is Action.DENY
    assert found.reasons == {Reason.L7, Reason.DENY_RULE}
    assert found.at is Direction.INGRESS
    assert found.by == PolicyRef("CiliumNetworkPolicy", "shop", "api")
    assert found.request == Request(RequestKind.HTTP, "POST", "/pay", "api.shop", (("X-Version", "1.10"),))
    assert (found.status, found.family, found.timeout, found.within) == (403, FamilyChoice.BOTH, 0.2, 3.0)


def test_headers_go_with_the_request_in_the_text(shop: Case):
    found = expectation(shop, {"allow": "web -> api:8080 GET /x", "headers": {"Authorization": "Bearer no"}})
    assert found.request == Request(RequestKind.HTTP, "GET", "/x", headers=(("Authorization", "Bearer no"),))


@pytest.mark.parametrize(
    ("target", "means"),
    [
        ("api:8080", "api:8080/TCP"),
        ("api:metrics", "api:9090/TCP"),
        ("api:dns", "api:53/UDP"),
        ("api:53/UDP", "api:53/UDP"),
        ("api:7/SCTP", "api:7/SCTP"),
        ("service/api:80", "service/shop/api:80/TCP"),
        ("service/shop/api:http", "service/shop/api:80/TCP"),
        ("api.shop.svc.cluster.local:80", "api.shop.svc.cluster.local:80/TCP"),
        ("api.shop.svc:90", "api.shop.svc:90/TCP"),
        ("stripe:443", "stripe:443/TCP"),
        ("api.stripe.com:443", "api.stripe.com:443/TCP"),
        ("API.Stripe.com:443", "api.stripe.com:443/TCP"),
        ("203.0.113.10:443", "203.0.113.10:443/TCP"),
        ("world:443", "world:443/TCP"),
        ("host:10250", "host:10250/TCP"),
        ("remote-node:8472/UDP", "remote-node:8472/UDP"),
        ("kube-apiserver:6443", "kube-apiserver:6443/TCP"),
        ("kube-dns:53/UDP", "kube-dns:53/UDP"),
        ("kube-dns lookup api.stripe.com", "kube-dns:None/UDP"),
        ("kube-dns:53 lookup api.stripe.com", "kube-dns:53/UDP"),
        ("api icmp", "api:None/ICMP"),
        ("api icmp6", "api:None/ICMPv6"),
    ],
)
def test_what_a_target_means(shop: Case, target: str, means: str):
    assert parties(shop, f"allow: web -> {target}") == (["web"], [means])


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        ("web", PartyKind.ENDPOINT, "web"),
        ("internet", PartyKind.EXTERNAL, "internet"),
        ("world", PartyKind.BUILTIN, "world"),
        ("host", PartyKind.BUILTIN, "host"),
        ("kube-apiserver", PartyKind.BUILTIN, "kube-apiserver"),
        ("198.51.100.9", PartyKind.ADDRESS, "198.51.100.9"),
        ("2001:DB8:0:0::9", PartyKind.ADDRESS, "2001:db8::9"),
    ],
)
def test_what_a_source_means(shop: Case, source: str, kind: PartyKind, name: str):
    assert expectation(shop, f"allow: {source} -> api:8080").sources == (Party(kind, name),)


def test_declared_names_come_before_built_ins(folder: Folder):
    case = folder.case("case: x\nendpoints: {world: {ports: [80]}, a: {}}\nphases: {p: [{allow: 'a -> world:80'}]}\n")
    assert case.phases[0].expectations[0].targets[0].party == endpoint("world")


def test_any_is_every_declared_endpoint_but_the_other_side(shop: Case):
    assert parties(shop, "deny: any -> api:8080")[0] == ["web", "job", "agent"]
    assert parties(shop, "deny: * -> web icmp")[0] == ["job", "api", "agent"]
    assert parties(shop, "deny: any -> service/api:80")[0] == ["web", "job", "agent"]
    assert parties(shop, "deny: any -> internet:443")[0] == ["web", "job", "api", "agent"]


def test_any_as_a_target_is_whoever_declares_the_port(shop: Case):
    assert parties(shop, "deny: web -> any:metrics")[1] == ["api:9090/TCP", "agent:9091/TCP"]
    assert parties(shop, "deny: api -> any:9100")[1] == ["agent:9100/TCP"]
    assert parties(shop, "deny: web -> any icmp")[1] == ["job:None/ICMP", "api:None/ICMP", "agent:None/ICMP"]


def test_any_as_a_target_of_an_undeclared_port_is_everybody(shop: Case):
    found = expectation(shop, {"deny": "web -> any:22", "undeclared": True})
    assert [each.party.name for each in found.targets] == ["job", "api", "agent"]


def test_any_on_both_sides_is_one_expectation_per_source(folder: Folder):
    case = folder.case(SHOP.replace("- allow: web -> api:8080", "- deny: any -> any:metrics"))
    found = case.phases[0].expectations
    assert [([str(each) for each in one.sources], [str(each.party) for each in one.targets]) for one in found] == [
        (["web"], ["api", "agent"]), (["job"], ["api", "agent"]), (["api"], ["agent"]), (["agent"], ["api"]),
    ]  # fmt: skip


def test_any_on_both_sides_is_refused_where_one_expectation_is_wanted(shop: Case):
    with pytest.raises(CaseError, match="more than one expectation"):
        expectation(shop, "deny: any -> any:metrics")


def test_any_leaves_out_the_other_side_of_each_pair_only(folder: Folder):
    case = folder.case(SHOP.replace("- allow: web -> api:8080", "- allow: any -> api:8080, api:9090, agent:9100"))
    found = case.phases[0].expectations
    assert [([str(each) for each in one.sources], [str(each.party) for each in one.targets]) for one in found] == [
        (["web", "job", "agent"], ["api", "api"]), (["web", "job", "api"], ["agent"]),
    ]  # fmt: skip


def test_an_undeclared_port(shop: Case):
    found = expectation(shop, {"deny": "web -> api:22, 198.51.100.9:25", "undeclared": True})
    assert found.undeclared
    assert [(each.party.name, each.port) for each in found.targets] == [("api", 22), ("198.51.100.9", 25)]


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("web -> api:8080", FamilyChoice.IPV4),
        ("web -> api icmp", FamilyChoice.IPV4),
        ("web -> api icmp6", FamilyChoice.IPV6),
        ("web -> 203.0.113.10:443", FamilyChoice.IPV4),
        ("web -> [2001:db8:113::10]:443", FamilyChoice.IPV6),
        ("web -> 203.0.113.10:443, [2001:db8:113::10]:443", FamilyChoice.BOTH),
        ("web -> api:8080, [2001:db8:113::10]:443", FamilyChoice.BOTH),
        ("2001:db8::9 -> api:8080", FamilyChoice.IPV6),
        ("2001:db8::9, web -> api:8080", FamilyChoice.BOTH),
    ],
)
def test_the_family_is_that_of_the_addresses_named(shop: Case, text: str, family: FamilyChoice):
    assert expectation(shop, f"allow: {text}").family is family


def test_a_family_that_excludes_an_address_named_is_refused(shop: Case):
    with pytest.raises(CaseError, match="the text names an ipv6 address"):
        expectation(shop, {"allow": "web -> [2001:db8:113::10]:443", "family": "ipv4"})


def test_the_text_of_an_expectation_parses_to_the_same_expectation(shop: Case):
    for text in (
        "web, job -> api:metrics, api:dns",
        "any -> service/api:80 GET /x",
        "web -> kube-dns lookup a.example",
        "web -> stripe:443",
    ):
        first = expectation(shop, f"allow: {text}")
        again = expectation(shop, f"allow: {first.text}")
        assert first == again


def test_a_mistake_in_python_is_shown_in_its_own_line(shop: Case):
    line = test_a_mistake_in_python_is_shown_in_its_own_line.__code__.co_firstlineno + 4
    with pytest.raises(CaseError) as caught:
        parse_expectation(
            "allow: wbe -> api:8080", shop, (), Location(__file__, line))  # fmt: skip
    error = caught.value
    assert error.message == "unknown endpoint `wbe`"
    assert error.source_line is not None
    assert error.location is not None
    column = error.location.column
    assert error.source_line[column - 1 : column + 2] == "wbe"
    assert error.source_line.strip().startswith('"allow: wbe')


def test_a_mistake_in_text_that_is_not_in_the_file_is_shown_in_the_text(shop: Case):
    with pytest.raises(CaseError) as caught:
        expectation(shop, "allow: web -> api:81")
    assert str(caught.value).splitlines()[1:3] == ["    allow: web -> api:81", "                      ^^"]


@pytest.mark.parametrize("text", ["web -> api:8080", "permit: web -> api:8080", ""])
def test_a_text_without_an_action_is_refused(shop: Case, text: str):
    with pytest.raises(CaseError, match="an expectation begins with `allow:`, `deny:` or `audit:`"):
        expectation(shop, text)
