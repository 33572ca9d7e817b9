"""What the API server and the agents say, read without guessing."""

from __future__ import annotations

import json

import pytest
from kubernetes.client import (
    V1ContainerState,
    V1ContainerStateRunning,
    V1ContainerStateTerminated,
    V1ContainerStateWaiting,
    V1ContainerStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodStatus,
)
from kubernetes.client.exceptions import ApiException

from harness.cases.scalars import FEATURES
from harness.clusters.base import Capabilities
from harness.clusters.kubernetes.capabilities import AgentStatus, Facts, capabilities, parse_status
from harness.clusters.kubernetes.deploy import fault_of, no_account_yet
from harness.clusters.kubernetes.enforcement import EndpointView, Wanted, parse_view, pending
from harness.clusters.kubernetes.exec import Exit, exit_of
from harness.clusters.kubernetes.policies import MARK, valid
from harness.model.traffic import PodRef

WEB = PodRef("shop-k7x2qd-3", "web")


def answer(*, uid: str = "u1", mark: str = "", revision: int = 5, realized: int = 5, state: str = "ready", wrapped: bool = True) -> str:
    labels = [{"key": "io.cilium.k8s.policy.uid", "value": uid, "source": "k8s"}]
    labels += [{"key": MARK, "value": mark, "source": "unspec"}] if mark else []
    rules = json.dumps([{"Labels" if wrapped else "labels": labels}])
    policies = json.dumps({"policy": rules, "revision": revision}) if wrapped else f"{rules}\nRevision: {revision}"
    ids = {"k8s-namespace": WEB.namespace, "k8s-pod-name": WEB.name}
    status = {"state": state, "external-identifiers": ids, "identity": {"id": 300}, "policy": {"realized": {"policy-revision": realized}}}
    return f"{policies}\n\n--- endpoints ---\n{json.dumps([{'status': status}, {'status': {}}])}"


@pytest.mark.parametrize("wrapped", [True, False])
def test_an_agents_answer_is_read_in_its_old_and_new_form(wrapped):
    view = parse_view(answer(mark="4", wrapped=wrapped))
    assert (view.revision, view.policies) == (5, {"u1": frozenset({"4"})})
    assert view.endpoints == {WEB: EndpointView("ready", 5, 300)}


@pytest.mark.parametrize("text", ["", "command not found", "{}\n--- endpoints ---\n[]"])
def test_what_is_no_answer_is_not_taken_for_one(text):
    with pytest.raises(ValueError, match=r"."):
        parse_view(text)


@pytest.mark.parametrize(
    ("text", "wanted", "lacks"),
    [
        (answer(), Wanted({"u1": ""}), ""),
        (answer(), Wanted({"u2": ""}), "is not there"),
        (answer(mark="3"), Wanted({"u1": "4"}), "still the version before"),
        (answer(mark="4"), Wanted({"u1": "4"}), ""),
        (answer(), Wanted(absent=frozenset({"u1"})), "still there"),
        (answer(realized=4), Wanted(), "has realized revision 4, not 5"),
        (answer(state="regenerating"), Wanted(), "is regenerating"),
    ],
)
def test_what_an_agent_still_lacks_is_said(text, wanted, lacks):
    why = pending(parse_view(text), wanted, [WEB], 5)
    assert (lacks in why) if lacks else (not why)


def test_a_pod_that_is_no_endpoint_yet_is_waited_for():
    assert "is no endpoint yet" in pending(parse_view(answer()), Wanted(), [PodRef("shop", "new")], 5)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ('{"status": "Success"}', 0),
        ('{"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}', 3),
        ('{"status": "Failure", "message": "container not found"}', None),
        ("", None),
        ("error executing command", None),
        ("[]", None),
    ],
)
def test_an_exit_code_is_told_and_never_guessed(status, code):
    found = exit_of(status)
    assert found.code == code
    assert found.code is not None or found.why


def test_an_exit_that_never_began_can_be_told_from_one_that_broke():
    assert not Exit(None, "refused", opened=False).opened


def pod(**status: object) -> V1Pod:
    return V1Pod(metadata=V1ObjectMeta(namespace="shop", name="web"), status=V1PodStatus(**status))


def container(**state: object) -> V1ContainerStatus:
    return V1ContainerStatus(image="python:3", image_id="", name="agent", ready=False, restart_count=0, state=V1ContainerState(**state))


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (pod(phase="Pending"), ""),
        (pod(phase="Pending", container_statuses=[container(waiting=V1ContainerStateWaiting(reason="ContainerCreating"))]), ""),
        (pod(phase="Running", container_statuses=[container(running=V1ContainerStateRunning())]), ""),
        (
            pod(phase="Pending", container_statuses=[container(waiting=V1ContainerStateWaiting(reason="ErrImagePull", message="no host"))]),
            "cannot get its image python:3: ErrImagePull: no host",
        ),
        (
            pod(phase="Failed", container_statuses=[container(terminated=V1ContainerStateTerminated(exit_code=137, reason="OOMKilled"))]),
            "ended with code 137 (OOMKilled)",
        ),
        (
            pod(
                phase="Failed",
                reason="Evicted",
                message="The node was low on resource: memory.",
                container_statuses=[container(terminated=V1ContainerStateTerminated(exit_code=137, reason="Error"))],
            ),
            "failed: Evicted: The node was low on resource: memory.",
        ),
    ],
)
def test_what_became_of_a_pod_is_told(found, fault):
    assert fault_of(found) == fault


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], None),
        ([{"type": "Ready", "status": "True"}], None),
        ([{"type": "Valid", "status": "Unknown"}], None),
        ([{"type": "Valid", "status": "True", "message": "ok"}], True),
        ([{"type": "Valid", "status": "False", "message": "bad"}], False),
    ],
)
def test_an_absent_condition_is_neither_valid_nor_invalid(conditions, expected):
    assert valid({"status": {"conditions": conditions}})[0] is expected


def test_only_the_missing_service_account_is_worth_a_retry():
    def refused(message: str, status: int = 403) -> ApiException:
        error = ApiException(status=status, reason="Forbidden")
        error.body = json.dumps({"message": message})
        return error

    missing = 'pods "web" is forbidden: error looking up service account shop/default: serviceaccount "default" not found'
    assert no_account_yet(refused(missing))
    assert not no_account_yet(refused('violates PodSecurity "restricted:latest"'))
    assert not no_account_yet(refused(missing, status=500))
    assert not no_account_yet(OSError("serviceaccount not found"))


def found(facts: Facts, *, allowed: bool = False) -> Capabilities:
    return capabilities(facts, allow_host=allowed, allow_clusterwide=allowed)


@pytest.mark.parametrize(
    "facts",
    [
        Facts("1.19.7", {"enable-l7-proxy": "false"}, 1),
        Facts("1.20.0", None, 2),
        Facts("1.20.0", {"enable-ipv6": "true"}, 3, AgentStatus("wireguard", "true", 2, services=True)),
    ],
)
@pytest.mark.parametrize("allowed", [True, False])
def test_every_feature_is_there_or_says_why_not(facts, allowed):
    cluster = found(facts, allowed=allowed)
    assert not cluster.features & cluster.lacking.keys()
    assert set(FEATURES) <= cluster.features | cluster.lacking.keys()
    assert all(cluster.lacking.values())


def test_what_is_switched_off_is_lacking_with_the_switch():
    assert "enable-l7-proxy is 'false'" in found(Facts("1.19.7", {"enable-l7-proxy": "false"}, 1)).lacking["l7-http"]
    assert {"l7-http", "ipv6", "nodes-2", "nodes-3"} <= found(Facts("1.20.0", {"enable-ipv6": "true"}, 3)).features


def test_names_need_the_dns_proxy_and_its_plain_refusal():
    assert {"l7-dns", "fqdn"} <= found(Facts("1.20.0", {}, 1)).features
    off = found(Facts("1.20.0", {"enable-l7-proxy": "false"}, 1)).lacking
    assert "enable-l7-proxy" in off["l7-dns"]
    assert "enable-l7-proxy" in off["fqdn"]
    alike = found(Facts("1.20.0", {"tofqdns-dns-reject-response-code": "nameError"}, 1))
    assert "'nameError'" in alike.lacking["l7-dns"]
    assert "fqdn" in alike.features


def test_what_must_be_allowed_says_by_what():
    asked = {"host-endpoints": "--allow-host", "clusterwide": "--allow-clusterwide", "cidr-group": "--allow-clusterwide"}
    cluster = found(Facts("1.20.0", {}, 2))
    assert all(option in cluster.lacking[feature] for feature, option in asked.items())
    assert asked.keys() <= found(Facts("1.20.0", {}, 2), allowed=True).features


def test_what_cannot_be_read_is_not_offered():
    blind = found(Facts("1.20.0", None, 2))
    assert "cannot be read" in blind.lacking["l7-http"]
    assert "l7-http" not in blind.features


def test_the_agents_word_outweighs_the_configuration():
    text = json.dumps({
        "encryption": {"mode": "Wireguard"},
        "kube-proxy-replacement": {"mode": "True"},
        "cluster-mesh": {"clusters": [{"name": "other"}]},
    })  # fmt: skip
    status = parse_status(text, services=True)
    cluster = found(Facts("1.19.7", {"enable-ipsec": "true", "kube-proxy-replacement": "false"}, 2, status))
    assert {"wireguard", "kube-proxy-replacement", "clustermesh", "to-services"} <= cluster.features
    assert "encryption is wireguard" in cluster.lacking["ipsec"]


@pytest.mark.parametrize("text", ["", "error: no such command", "[]", '{"encryption": "x"}', '{"encryption": null}'])
def test_of_what_is_no_status_nothing_is_known(text):
    assert parse_status(text) == AgentStatus()
