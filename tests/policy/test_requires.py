"""fromRequires and toRequires, which Cilium has up to 1.18: what they ask narrows the endpoints of every rule of the same subject.

By Cilium's source of 1.18 (`pkg/policy/rule.go` resolveIngressPolicy, `pkg/policy/api/ingress.go`
GetSourceEndpointSelectorsWithRequirements); no recorded answers.
"""

from __future__ import annotations

from itertools import product

import pytest

from harness.model.traffic import Protocol, Traffic
from harness.model.verdict import Verdict
from harness.policy.options import Options
from harness.policy.reach import Reach, Reachability
from harness.policy.repository import Repository
from tests.policy.policy_worlds import WORLD, Document, app, ask, ccnp, cnp, evaluator, knp, ports

TEAM = "io.cilium.k8s.namespace.labels.team"
ANYWHERE = {"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]}
OF_TEAM_X = {"matchLabels": {TEAM: "x"}}
APP_A = {**ANYWHERE, "matchLabels": {"app": "a"}}

PEERS = ("a/a1", "a/a2", "b/b1", "c/c1", "host", "world:10.9.9.9")


def entering(*policies: Document) -> set[str]:
    return {each for each in PEERS if ask(f"{each} -> a/web:8080", *policies, cilium="1.18").verdict is Verdict.ALLOW}


def requiring(*selectors: Document, **more: object) -> Document:
    return cnp("requires", ingress=[{"fromRequires": list(selectors), **more}])


def test_it_narrows_what_another_policy_allows():
    assert entering(cnp("open", ingress=[{"fromEndpoints": [APP_A]}])) >= {"a/a1", "b/b1", "c/c1"}
    assert entering(cnp("open", ingress=[{"fromEndpoints": [APP_A]}]), requiring(OF_TEAM_X)) == {"a/a1", "c/c1", "host"}


def test_it_narrows_a_rule_that_it_stands_in():
    assert entering(requiring(OF_TEAM_X, fromEndpoints=[APP_A])) == {"a/a1", "c/c1", "host"}


def test_it_narrows_the_rules_of_a_network_policy_and_an_empty_peer_list_of_one():
    everyone = knp("everyone", subject={"matchLabels": {"app": "web"}}, ingress=[{}])
    assert entering(everyone) == {*PEERS}
    assert entering(everyone, requiring(OF_TEAM_X)) == {"a/a1", "a/a2", "c/c1", "host"}


def test_all_requirements_of_all_policies_hold_together():
    open_ = cnp("open", ingress=[{"fromEndpoints": [ANYWHERE]}])
    both = ccnp("second", subject={"matchLabels": {"app": "web"}}, ingress=[{"fromRequires": [{"matchLabels": {"app": "a"}}]}])
    assert entering(open_, requiring(OF_TEAM_X), both) == {"a/a1", "c/c1", "host"}


def test_entities_and_prefixes_are_not_narrowed():
    world = cnp("world", ingress=[{"fromEntities": ["world"]}])
    prefix = cnp("prefix", ingress=[{"fromCIDR": ["10.9.0.0/16"]}])
    assert "world:10.9.9.9" in entering(world, requiring(OF_TEAM_X))
    assert "world:10.9.9.9" in entering(prefix, requiring(OF_TEAM_X))


def test_by_itself_it_allows_nobody_and_with_ports_everybody_at_them():
    assert entering(requiring(OF_TEAM_X)) == {"host"}
    assert entering(requiring(OF_TEAM_X, toPorts=ports("8080"))) == {*PEERS}


def test_what_a_deny_rule_requires_narrows_deny_rules_only():
    open_ = cnp("open", ingress=[{"fromEndpoints": [ANYWHERE]}])
    denies = cnp("denies", ingressDeny=[{"fromEndpoints": [ANYWHERE]}])
    narrow = cnp("narrow", ingressDeny=[{"fromRequires": [OF_TEAM_X]}])
    assert entering(open_, denies) == {"host"}
    assert entering(open_, denies, narrow) == {"b/b1", "host"}


def test_it_is_a_matter_of_one_subject_and_one_direction():
    elsewhere = cnp("elsewhere", subject=app("a"), ingress=[{"fromRequires": [OF_TEAM_X]}])
    outward = cnp("outward", egress=[{"toRequires": [OF_TEAM_X]}])
    open_ = cnp("open", ingress=[{"fromEndpoints": [ANYWHERE]}])
    assert entering(open_, elsewhere, outward) == entering(open_)


def test_a_namespace_is_added_as_to_any_selector_of_a_namespaced_policy():
    open_ = cnp("open", ingress=[{"fromEndpoints": [ANYWHERE]}])
    assert entering(open_, requiring({"matchLabels": {"app": "a"}})) == {"a/a1", "host"}


def test_what_leaves_is_narrowed_as_well():
    open_ = cnp("open", egress=[{"toEndpoints": [ANYWHERE]}])
    narrow = cnp("narrow", egress=[{"toRequires": [OF_TEAM_X]}])
    verdicts = {each: ask(f"a/web -> {each}:80", open_, narrow, cilium="1.18").verdict for each in ("a/a1", "b/b1", "c/c1")}
    assert verdicts == {"a/a1": Verdict.ALLOW, "b/b1": Verdict.DENY, "c/c1": Verdict.ALLOW}


@pytest.mark.parametrize("cilium", ["1.19", "1.20"])
def test_later_versions_refuse_it(cilium: str):
    assert Repository.empty(Options.of(cilium)).change(apply=[requiring(OF_TEAM_X)]).errors


def test_whole_tables_agree_with_single_flows():
    policies = [cnp("open", ingress=[{"fromEndpoints": [ANYWHERE]}]), requiring(OF_TEAM_X)]
    made = evaluator(*policies, cilium="1.18")
    pods = [each.ref for each in WORLD.pods]
    found = Reachability(made, [(Protocol.TCP, 8080)])
    for source, target in product(pods, pods):
        single = made.verdict(Traffic(source, target, Protocol.TCP, 8080)).verdict
        assert (found.reach(source, target, Protocol.TCP, 8080) is Reach.ALLOW) is (single is Verdict.ALLOW), (source, target)
