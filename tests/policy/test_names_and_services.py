"""What policy looks up elsewhere: names that DNS taught, services, CIDR groups, cloud groups; and what follows where it is missing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.model.cluster import CIDRGroup, Service
from tests.policy.policy_worlds import WORLD, app, ask, cnp, evaluator, ports, traffic

NAMES = cnp(egress=[{"toFQDNs": [{"matchPattern": "*.example.com"}], "toPorts": ports("443/TCP")}])
HTTPS = "a/web -> world:203.0.113.10:443"


def test_a_name_that_nothing_taught_matches_nothing() -> None:
    assert ask(HTTPS, NAMES).egress.decision == "default-deny"


def test_a_name_that_dns_taught_matches_its_addresses() -> None:
    made = evaluator(NAMES, learned={"203.0.113.10": ["api.example.com"], "203.0.113.11": ["example.org"]})
    assert made.verdict(traffic(HTTPS)).egress.decision == "allow"
    assert made.verdict(traffic("a/web -> world:203.0.113.11:443")).egress.decision == "default-deny"
    assert made.verdict(traffic("a/web -> world:203.0.113.10:80")).egress.decision == "default-deny"


def test_what_dns_taught_may_be_unknown_where_it_matters() -> None:
    def decision(text: str, *more: dict) -> str:
        return ask(text, NAMES, *more, names_unknown=True).egress.decision

    assert decision(HTTPS) == "unknown"
    assert ask(HTTPS, NAMES, names_unknown=True).verdict == "unknown"
    assert decision("a/web -> world:203.0.113.10:80") == "default-deny", "no rule names the port"
    assert decision("a/web -> a/a1:443") == "default-deny", "names are never those of pods"
    allows = cnp("allows", egress=[{"toCIDR": ["203.0.113.0/24"]}])
    assert decision(HTTPS, allows) == "allow"
    denies = cnp("denies", egressDeny=[{"toEntities": ["world"]}])
    assert decision(HTTPS, denies) == "deny-rule"


def test_a_learned_address_still_lies_in_its_cidrs() -> None:
    policy = cnp(egress=[{"toCIDRSet": [{"cidr": "203.0.113.0/24", "except": ["203.0.113.10/32"]}]}])
    made = evaluator(policy, learned={"203.0.113.10": ["x.io"], "203.0.113.11": ["x.io"]})
    assert made.verdict(traffic(HTTPS)).egress.decision == "default-deny"
    assert made.verdict(traffic("a/web -> world:203.0.113.11:443")).egress.decision == "allow"


SERVICES = replace(
    WORLD,
    services=(
        Service("a", "front", {"app": "a"}, labels={"tier": "x"}),
        Service("b", "front", {"app": "a"}),
        Service("a", "out", None, backends=("203.0.113.10",)),
    ),
)


def to(**service: str) -> dict:
    return cnp(egress=[{"toServices": [{"k8sService": service}]}])


@pytest.mark.parametrize(
    ("policy", "reached"),
    [
        (to(serviceName="front", namespace="a"), {"a/a1"}),
        (to(serviceName="front"), {"a/a1", "b/b1"}),
        (to(serviceName="out", namespace="a"), {"world:203.0.113.10"}),
        (to(serviceName="out", namespace="b"), set()),
        (
            cnp(egress=[{"toServices": [{"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "x"}}}}]}]),
            {"a/a1"},
        ),
    ],
)
def test_services_stand_for_their_pods_or_backends(policy: dict, reached: set[str]) -> None:
    peers = ("a/a1", "a/a2", "b/b1", "world:203.0.113.10", "world:203.0.113.11")
    made = evaluator(policy, state=SERVICES)
    assert {peer for peer in peers if made.verdict(traffic(f"a/web -> {peer}:80")).egress.decision == "allow"} == reached


def test_a_service_that_is_not_there_is_anyone_with_ports_and_no_one_without() -> None:
    missing = [{"k8sService": {"serviceName": "gone", "namespace": "a"}}]
    assert ask("a/web -> b/b1:80", cnp(egress=[{"toServices": missing, "toPorts": ports("80/TCP")}])).verdict == "allow"
    assert ask("a/web -> b/b1:80", cnp(egress=[{"toServices": missing}])).egress.decision == "default-deny"


GROUPS = replace(
    WORLD,
    cidr_groups=(
        CIDRGroup("one", ("10.0.0.0/8",), {"env": "prod"}),
        CIDRGroup("two", ("10.1.0.0/16", "192.0.2.0/24"), {"env": "dev"}),
    ),
)


@pytest.mark.parametrize(
    ("item", "reached"),
    [
        ({"cidrGroupRef": "one"}, {"10.0.0.1", "10.1.0.1"}),
        ({"cidrGroupRef": "two"}, {"10.1.0.1", "192.0.2.1"}),
        ({"cidrGroupRef": "none"}, set()),
        ({"cidrGroupRef": "one", "except": ["10.1.0.0/16"]}, {"10.0.0.1"}),
        ({"cidrGroupSelector": {"matchLabels": {"env": "prod"}}}, {"10.0.0.1", "10.1.0.1"}),
        (
            {"cidrGroupSelector": {"matchExpressions": [{"key": "env", "operator": "In", "values": ["prod", "dev"]}]}},
            {"10.0.0.1", "10.1.0.1", "192.0.2.1"},
        ),
    ],
)
def test_cidr_groups(item: dict, reached: set[str]) -> None:
    made = evaluator(cnp(egress=[{"toCIDRSet": [item]}]), state=GROUPS)
    addresses = ("10.0.0.1", "10.1.0.1", "192.0.2.1", "8.8.8.8")
    assert {address for address in addresses if made.verdict(traffic(f"a/web -> world:{address}:80")).egress.decision == "allow"} == reached


def test_cloud_groups_are_unknown_outside_and_nobody_inside() -> None:
    policy = cnp(egress=[{"toGroups": [{"aws": {"securityGroupsIds": ["sg-1"]}}]}])
    assert ask(HTTPS, policy).egress.decision == "unknown"
    assert ask("a/web -> a/a1:80", policy).egress.decision == "default-deny"
    denies = cnp(egressDeny=[{"toGroups": [{"aws": {"securityGroupsIds": ["sg-1"]}}]}], egress=[{"toEntities": ["all"]}])
    assert ask(HTTPS, denies).egress.decision == "unknown"
    assert ask(HTTPS, cnp(egressDeny=[{"toGroups": [{"aws": {"region": "r"}}]}])).egress.decision == "default-deny"


@pytest.mark.parametrize(
    ("mode", "node", "pod"),
    [((), "default-deny", "default-deny"), (("nodes",), "unknown", "default-deny"), (("pods",), "default-deny", "unknown")],
)
def test_cidr_match_modes_need_addresses_that_the_model_has_not(mode: tuple[str, ...], node: str, pod: str) -> None:
    policy = cnp(egress=[{"toCIDR": ["10.0.0.0/8"]}])
    options = {"cidr_match_mode": frozenset(mode)}
    assert ask("a/web -> remote-node:80", policy, **options).egress.decision == node
    assert ask("a/web -> a/a1:80", policy, **options).egress.decision == pod
    assert ask("a/web -> world:10.0.0.1:80", policy, **options).egress.decision == "allow"


def test_authentication_passes_where_something_processes_it() -> None:
    policy = cnp(ingress=[{"authentication": {"mode": "required"}, "fromEndpoints": [app("a")]}])
    assert ask("a/a1 -> a/web:80", policy).verdict == "deny"
    assert ask("a/a1 -> a/web:80", policy, auth_enabled=True).verdict == "allow"
    never = cnp(ingress=[{"authentication": {"mode": "test-always-fail"}, "fromEndpoints": [app("a")]}])
    assert ask("a/a1 -> a/web:80", never, auth_enabled=True).verdict == "deny"


def test_a_rule_with_its_own_mode_is_more_specific_than_a_broader_one() -> None:
    required = {"authentication": {"mode": "required"}, "fromEndpoints": [app("a")]}
    disabled = {"authentication": {"mode": "disabled"}, "fromEndpoints": [app("a")], "toPorts": ports("80/TCP")}
    plain = {"fromEndpoints": [app("a")], "toPorts": ports("81/TCP")}
    policy = cnp(ingress=[required, disabled, plain])
    assert [ask(f"a/a1 -> a/web:{port}", policy).ingress.decision for port in (80, 81, 82)] == ["allow", "auth", "auth"]
