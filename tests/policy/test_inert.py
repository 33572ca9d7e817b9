"""A policy that does nothing says so, and why, in words a person can act on."""

from __future__ import annotations

from typing import Any

import pytest

from harness.model.cluster import ClusterState
from harness.model.verdict import PolicyRef, PolicyStatus
from tests.policy.policy_worlds import WORLD, Document, app, ccnp, cnp, evaluator, knp, pod, ports

P = PolicyRef("CiliumNetworkPolicy", "a", "p")
C = PolicyRef("CiliumClusterwideNetworkPolicy", "", "p")
K = PolicyRef("NetworkPolicy", "a", "p")
OPT_OUT = {"enableDefaultDeny": {"ingress": False, "egress": False}}


def status(document: Document, ref: PolicyRef = P, **options: Any) -> PolicyStatus:
    return evaluator(document, **options).status(ref)


def test_a_typo_in_a_label_value_names_the_nearest() -> None:
    state = ClusterState({"shop": {}}, (pod("shop", "b", {"app": "backend"}), pod("shop", "f", {"app": "frontend"})))
    document = cnp(namespace="shop", subject=app("bakend"), ingress=[{}])
    assert status(document, PolicyRef("CiliumNetworkPolicy", "shop", "p"), state=state).inert == (
        "selects no endpoint of namespace shop: no pod has app=bakend (nearest: app=backend)"
    )


def test_a_typo_in_a_label_key_names_the_nearest() -> None:
    found = status(cnp(subject={"matchLabels": {"ap": "web"}}, ingress=[{}])).inert
    assert found == "selects no endpoint of namespace a: no pod has ap=web (nearest: app=web)"


def test_requirements_that_no_pod_has_together() -> None:
    state = ClusterState({"a": {}}, (pod("a", "x", {"app": "x", "tier": "y"}), pod("a", "z", {"app": "z", "tier": "w"})))
    found = status(cnp(subject={"matchLabels": {"app": "x", "tier": "w"}}, ingress=[{}]), state=state).inert
    assert found.startswith("selects no endpoint of namespace a: no pod has at the same time ")


def test_another_namespace_in_the_subject() -> None:
    document = cnp(subject={"matchLabels": {"app": "a", "io.kubernetes.pod.namespace": "b"}}, ingress=[{}])
    assert "no pod has io.kubernetes.pod.namespace=b (nearest: io.kubernetes.pod.namespace=a)" in status(document).inert


def test_a_label_that_is_not_part_of_identities() -> None:
    state = ClusterState({"a": {}}, (pod("a", "x", {"pod-template-hash": "1"}),))
    found = status(cnp(subject={"matchLabels": {"pod-template-hash": "1"}}, ingress=[{}]), state=state).inert
    assert "label pod-template-hash is not part of an identity" in found


def test_a_namespace_without_pods() -> None:
    found = status(cnp(namespace="empty", ingress=[{}]), PolicyRef("CiliumNetworkPolicy", "empty", "p")).inert
    assert found == "selects no endpoint: namespace empty has no pod"


def test_a_refused_policy_says_by_whom_and_why() -> None:
    found = status(cnp(ingress=[], egress=[]))
    assert found.error is not None
    assert found.inert == ("refused (agent): spec: rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny")


def test_one_that_was_never_applied() -> None:
    assert status(cnp("other", ingress=[{}])).inert == "not applied"


def test_enable_default_deny_without_an_element() -> None:
    document = cnp(enableDefaultDeny={"ingress": True, "egress": False}, egress=[{"toEndpoints": [app("nobody")]}])
    assert status(document).inert == (
        "spec.enableDefaultDeny.ingress is true, but there is no ingress or ingressDeny element to carry it: write `ingress: [{}]`; "
        "egress[0] selects no peer that exists: app=nobody, io.cilium.k8s.policy.cluster=default, io.kubernetes.pod.namespace=a; "
        "and it turns on no default deny"
    )


NOTHING = {
    "an empty rule": ({"ingress": [{}]}, "ingress[0] names no peer and no port, so it allows nothing"),
    "an empty deny rule": ({"ingressDeny": [{}]}, "ingressDeny[0] names no peer and no port, so it denies nothing"),
    "an empty peer list": (
        {"ingress": [{"fromEndpoints": [], "toPorts": ports("80/TCP")}]},
        "ingress[0] has an empty from... list, which is nobody",
    ),
    "an empty port list": ({"ingress": [{"toPorts": [{"ports": []}]}]}, "ingress[0] allows no port: its port list is empty"),
    "names that nobody looked up": (
        {"egress": [{"toFQDNs": [{"matchName": "x.io"}]}]},
        "egress[0] allows names that DNS taught no address for",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_without_default_deny_a_rule_that_adds_nothing_is_inert(name: str) -> None:
    spec, reason = NOTHING[name]
    assert status(cnp(**spec, **OPT_OUT)).inert == f"{reason}; and it turns on no default deny"
    assert not status(cnp(**spec)).inert, "with default deny it isolates"


def test_nodes_only_with_the_host_firewall_off() -> None:
    document = ccnp(ingress=[{}], nodeSelector={})
    del document["spec"]["endpointSelector"]
    assert status(document, C).inert == "selects nodes only, and the host firewall is off"
    on = status(document, C, host_firewall=True)
    assert (on.selects, on.inert) == (("n1",), "")


def test_enforcement_is_switched_off() -> None:
    assert "mode never" in status(cnp(ingress=[{}]), enforcement="never").inert


@pytest.mark.parametrize(
    ("document", "ref", "selects"),
    [
        (cnp(ingress=[{}]), P, ("a/web",)),
        (cnp(subject={}, ingress=[{}]), P, ("a/a1", "a/a2", "a/web")),
        (ccnp(subject={}, ingress=[{}]), C, ("a/a1", "a/a2", "a/web", "b/b1", "c/c1")),
        (knp(policyTypes=["Ingress"]), K, ("a/web",)),
        (cnp(ingress=[{"fromEndpoints": [app("a")]}], **OPT_OUT), P, ("a/web",)),
    ],
)
def test_what_does_something_is_not_inert(document: Document, ref: PolicyRef, selects: tuple[str, ...]) -> None:
    found = status(document, ref)
    assert (found.error, found.selects, found.inert) == (None, selects, "")
    assert WORLD.pods


def test_cilium_s_own_endpoints_count_only_where_they_are_meant() -> None:
    meant = ccnp(subject={"matchLabels": {"reserved:health": ""}}, ingress=[{"fromEntities": ["remote-node"]}])
    assert (status(meant, C).selects, status(meant, C).inert) == (("health",), "")
    left_over = ccnp(subject={"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, ingress=[{}])
    found = status(left_over, C)
    assert found.selects == ()
    assert found.inert == "selects no endpoint of the cluster: no pod has app DoesNotExist"


def test_a_deny_rule_that_selects_nobody_is_idle_where_the_rest_of_the_policy_works() -> None:
    found = status(cnp(ingress=[{}], ingressDeny=[{"fromEndpoints": [app("nobody")]}]))
    assert found.inert == ""
    (line,) = found.idle
    assert "ingressDeny[0]" in line
    assert "selects no peer that exists" in line
    assert "nobody" in line


def test_a_deny_rule_that_denies_somebody_is_not_idle_nor_an_allow_that_selects_nobody() -> None:
    assert status(cnp(ingressDeny=[{"fromEndpoints": [app("a")]}], ingress=[{"fromEndpoints": [app("nobody")]}])).idle == ()
