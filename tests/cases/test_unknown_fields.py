"""A misspelt field of a policy is dropped by a cluster without a word; here it is a mistake, with its place."""

from __future__ import annotations

import json

import pytest
import yaml

from harness.errors import PolicyFileError
from harness.policy.fields import unknown_in
from tests.cases.case_folder import Folder
from tests.conformance.vectors import read

CASE = """case: typo
endpoints:
  client: {labels: {app: client}}
  server: {labels: {app: server}, ports: [8080]}
phases:
  policy:
    policies:
      - apiVersion: API
        kind: KIND
        metadata: {name: p}
        spec: SPEC
    expect:
      - allow: client -> server:8080
"""
CILIUM = ("CiliumNetworkPolicy", "cilium.io/v2")
KUBERNETES = ("NetworkPolicy", "networking.k8s.io/v1")


def load(folder: Folder, kind: tuple[str, str], spec: str) -> object:
    return folder.case(CASE.replace("KIND", kind[0]).replace("API", kind[1]).replace("SPEC", spec))


@pytest.mark.parametrize(
    ("kind", "spec", "wrong", "path", "meant"),
    [
        (CILIUM, "{endpointSelector: {}, ingress: [{fromEndpoint: [{}]}]}", "fromEndpoint", "spec.ingress[0].fromEndpoint", "fromEndpoints"),
        (CILIUM, "{endpointSelector: {}, ingress: [{}], ingresDeny: [{}]}", "ingresDeny", "spec.ingresDeny", "ingressDeny"),
        (CILIUM, "{endpointSelector: {matchlabels: {app: server}}, ingress: [{}]}", "matchlabels", "spec.endpointSelector.matchlabels", "matchLabels"),
        (CILIUM, "{endpointSelector: {}, egress: [{}, {toPorts: [{ports: [{port: '1', endport: 2}]}]}]}", "endport", "spec.egress[1].toPorts[0].ports[0].endport", "endPort"),
        (CILIUM, "{endpointSelector: {}, ingressDeny: [{authentication: {mode: required}}]}", "authentication", "spec.ingressDeny[0].authentication", ""),
        (KUBERNETES, "{podSelector: {}, ingress: [{from: [{podselector: {}}]}]}", "podselector", "spec.ingress[0].from[0].podselector", "podSelector"),
        (KUBERNETES, "{podSelector: {matchLabel: {app: server}}}", "matchLabel", "spec.podSelector.matchLabel", "matchLabels"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_pointed_at(folder: Folder, kind: tuple[str, str], spec: str, wrong: str, path: str, meant: str):
    with pytest.raises(PolicyFileError, match="unknown field") as raised:
        load(folder, kind, spec)
    error = raised.value
    assert error.message.endswith(path)
    assert error.location is not None
    assert error.source_line is not None
    assert error.source_line[error.location.column - 1 :].startswith(wrong)
    assert error.hint is not None
    assert not meant or f"did you mean `{meant}`?" in error.hint


def test_labels_and_annotations_may_have_any_name(folder: Folder):
    load(folder, CILIUM, "{endpointSelector: {matchLabels: {app: server, any.name/x: y}}, ingress: [{}], labels: [{key: k}]}")


def test_what_only_an_older_cilium_knows_is_no_typo():
    document = yaml.safe_load(CASE.replace("KIND", CILIUM[0]).replace("API", CILIUM[1]))["phases"]["policy"]["policies"][0]
    rule = {"toPorts": [{"ports": [{"port": "9092", "protocol": "TCP"}], "rules": {"kafka": [{"topic": "x"}]}}]}
    assert unknown_in({**document, "spec": {"endpointSelector": {}, "ingress": [rule]}}) is None


def test_no_policy_that_cilium_accepts_has_a_field_unknown_to_us():
    accepted = 0
    for scenario in read("scenarios"):
        for policy in scenario["policies"]:
            name = f"{policy['kind']}/{policy['metadata'].get('namespace', '')}/{policy['metadata']['name']}"
            if name not in scenario["policy_errors"]:
                accepted += 1
                assert unknown_in(policy) is None, json.dumps(policy)
    assert accepted > 4000
