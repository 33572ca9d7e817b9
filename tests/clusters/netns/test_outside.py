"""A table written by hand from Cilium's documentation and code: what egress and ingress rules say of everything that is no pod."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.model.cluster import CIDRGroup
from harness.model.flow import DropReason
from harness.model.probe import Ending
from tests.clusters.netns.conftest import Bench, drops

PLACE = """
endpoints:
  client: {labels: {app: client}, node: a, ports: [8080]}
  server: {labels: {app: server}, node: a, ports: [{port: 8080, name: web}]}
  other: {labels: {app: other}, node: b, ports: [8080]}
externals:
  near: {addresses: [198.51.100.7], ports: [8080]}
  far: {addresses: [198.51.100.200], ports: [8080]}
services:
  web: {selector: {app: server}, ports: [{port: 80, targetPort: web}]}
"""
TARGETS = ("server", "other", "node:a", "node:b", "kube-apiserver", "world", "external:near", "external:far")
SOURCES = ("client", "other", "node:a", "node:b", "kube-apiserver", "world:", "world:198.51.100.7", "world:198.51.100.200")

DEFAULT, RULE, AUTH = DropReason.POLICY_DENIED, DropReason.POLICY_DENY, DropReason.AUTH_REQUIRED
GROUP = CIDRGroup("partners", ("198.51.100.0/25",), {"trust": "some"})

# The rule, who gets through, and who is dropped for another reason than that no rule allows it.
EGRESS = [
    ("egress: [{toEntities: [world]}]", {"world", "external:near", "external:far"}, {}),
    ("egress: [{toEntities: [host]}]", {"node:a"}, {}),
    ("egress: [{toEntities: [kube-apiserver]}]", {"kube-apiserver"}, {}),
    ("egress: [{toEntities: [cluster]}]", {"server", "other", "node:a", "node:b", "kube-apiserver"}, {}),
    ("egress: [{toEntities: [all]}]", set(TARGETS), {}),
    # A CIDR names what is outside the cluster: it never selects pods or nodes, whatever their addresses.
    ("egress: [{toCIDR: [0.0.0.0/0]}]", {"world", "external:near", "external:far"}, {}),
    ("egress: [{toCIDR: [198.51.100.7/32]}]", {"external:near"}, {}),
    ("egress: [{toCIDRSet: [{cidr: 198.51.100.0/24, except: [198.51.100.128/25]}]}]", {"external:near"}, {}),
    ("egress: [{toCIDRSet: [{cidrGroupRef: partners}]}]", {"external:near"}, {}),
    ("egress: [{toCIDRSet: [{cidrGroupRef: strangers}]}]", set(), {}),
    ("egress: [{toEntities: [world]}], egressDeny: [{toCIDRSet: [{cidrGroupRef: partners}]}]", {"world", "external:far"}, {"external:near": RULE}),
    ("egress: [{toEntities: [all]}], egressDeny: [{toEntities: [host]}]", set(TARGETS) - {"node:a"}, {"node:a": RULE}),
    ("egress: [{toServices: [{k8sService: {serviceName: web, namespace: default}}]}]", {"server"}, {}),
    ("egress: [{toServices: [{k8sService: {serviceName: web, namespace: elsewhere}}]}]", set(), {}),
    ("egress: [{toEntities: [world], authentication: {mode: required}}]", set(), {"world": AUTH, "external:near": AUTH, "external:far": AUTH}),
]  # fmt: skip
OUTSIDE = {"world:", "world:198.51.100.7", "world:198.51.100.200"}
# The pod's own node gets in wherever nothing denies it.
INGRESS = [
    ("ingress: [{}]", {"node:a"}, {}),
    ("ingress: [{fromEntities: [world]}]", {"node:a", *OUTSIDE}, {}),
    ("ingress: [{fromEntities: [kube-apiserver]}]", {"node:a", "kube-apiserver"}, {}),
    ("ingress: [{fromEntities: [cluster]}]", {"client", "other", "node:a", "node:b", "kube-apiserver"}, {}),
    ("ingress: [{fromCIDR: [0.0.0.0/0]}]", {"node:a", *OUTSIDE}, {}),
    ("ingress: [{fromCIDRSet: [{cidrGroupRef: partners}]}]", {"node:a", "world:198.51.100.7"}, {}),
    ("ingress: [{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {trust: some}}}]}]", {"node:a", "world:198.51.100.7"}, {}),
    ("ingress: [{fromEntities: [all]}], ingressDeny: [{fromCIDR: [198.51.100.128/25]}]", set(SOURCES) - {"world:198.51.100.200"},
     {"world:198.51.100.200": RULE}),
    ("ingress: [{fromEntities: [all]}], ingressDeny: [{fromEntities: [host]}]", set(SOURCES) - {"node:a"}, {"node:a": RULE}),
    ("ingress: [{fromEntities: [remote-node], authentication: {mode: required}}]", {"node:a"}, {"node:b": AUTH, "kube-apiserver": AUTH}),
]  # fmt: skip


def deploy(bench: Bench) -> None:
    bench.placement = bench.cluster.prepare(replace(bench.case(PLACE), cidr_groups=(GROUP,)))


@pytest.mark.parametrize(("rule", "through", "reasons"), EGRESS, ids=[rule for rule, _, _ in EGRESS])
def test_egress_reaches_whom_the_table_says(bench: Bench, rule: str, through: set[str], reasons: dict[str, DropReason]) -> None:
    deploy(bench)
    bench.apply(f"out: {{endpointSelector: {{matchLabels: {{app: client}}}}, {rule}}}")
    seen = dict(zip(TARGETS, bench.send(*(bench.probe("client", each, timeout=0.5) for each in TARGETS)), strict=True))
    assert {name for name, each in seen.items() if each.result.ending is Ending.ANSWERED} == through
    dropped = {name: {drop.drop_reason for drop in drops(each)} for name, each in seen.items() if name not in through}
    assert dropped == {name: {reasons.get(name, DEFAULT)} for name in TARGETS if name not in through}


@pytest.mark.parametrize(("rule", "through", "reasons"), INGRESS, ids=[rule for rule, _, _ in INGRESS])
def test_ingress_comes_from_whom_the_table_says(bench: Bench, rule: str, through: set[str], reasons: dict[str, DropReason]) -> None:
    deploy(bench)
    bench.apply(f"in: {{endpointSelector: {{matchLabels: {{app: server}}}}, {rule}}}")
    seen = dict(zip(SOURCES, bench.send(*(bench.probe(each, "server", timeout=0.5) for each in SOURCES)), strict=True))
    assert {name for name, each in seen.items() if each.result.ending is Ending.ANSWERED} == through
    dropped = {name: {drop.drop_reason for drop in drops(each)} for name, each in seen.items() if name not in through}
    assert dropped == {name: {reasons.get(name, DEFAULT)} for name in SOURCES if name not in through}
