from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.requirements import policy_features, referenced_cidr_groups
from tests.cases.case_folder import Folder

CASE = """\
case: x
endpoints:
  web: {}
  api: {labels: {app: api}, ports: [8080, {port: 53, protocol: UDP, serve: dns}, {port: 7, protocol: SCTP}, {port: 443, serve: tls}, {port: 90, serve: grpc}]}
"""
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ("spec", "specs", "ingress", "egress", "toPorts", "rules", "http", "dns", "toFQDNs", "authentication", "mode", "protocol", "icmps",
             "cidrGroupRef", "cidrGroupSelector", "nodeSelector", "toServices", "serverNames")
        ),
        inner,
        max_size=3,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.sampled_from(("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "NetworkPolicy")), JUNK, JUNK)
def test_no_policy_is_too_malformed(kind: str, spec: object, specs: object):
    document = {"spec": spec, "specs": specs}
    assert policy_features(kind, document) <= {
        "l7-http", "l7-dns", "fqdn", "tls-sni", "auth", "icmp", "sctp", "to-services", "cidr-group", "host-firewall", "clusterwide",
    }  # fmt: skip
    referenced_cidr_groups(document)


def test_a_policy_that_contains_itself_does_not_hang():
    spec: dict[str, object] = {}
    spec["ingress"] = [spec]
    assert policy_features("CiliumNetworkPolicy", {"spec": spec}) == frozenset()


def features(folder: Folder, expectation: str) -> set[str]:
    return set(folder.case(CASE + f"phases: {{p: [{expectation}]}}\n").phases[0].requires.features)


@pytest.mark.parametrize(
    ("expectation", "needed"),
    [
        ("allow: web -> api:8080", set()),
        ("allow: web -> api:8080 GET /", {"l7-http"}),
        ("allow: web -> api:90 grpc /a.B/C", {"l7-http", "grpc"}),
        ("allow: web -> api:90", {"l7-http", "grpc"}),
        ("allow: web -> api:443 tls a.example", {"tls-sni"}),
        ("allow: web -> api:443", {"tls-sni"}),
        ("allow: web -> api:53/UDP", set()),
        ("allow: web -> kube-dns lookup a.example", set()),
        ("allow: web -> api icmp", {"icmp"}),
        ("allow: web -> api icmp6", {"icmp", "ipv6"}),
        ("allow: web -> api:7/SCTP", {"sctp"}),
        ("{allow: 'web -> api:8080', family: ipv6}", {"ipv6"}),
        ("{allow: 'web -> api:8080', family: both}", set()),
        ("audit: web -> api:8080", {"audit"}),
        ("{deny: 'web -> api:8080', reason: auth}", {"auth"}),
        ("allow: world -> api:8080", {"externals", "external-sources"}),
        ("allow: 203.0.113.9 -> api:8080", {"externals", "external-sources"}),
        ("allow: web -> world:443", {"externals"}),
        ("allow: host -> api:8080", {"host-endpoints"}),
        ("allow: remote-node -> api:8080", {"host-endpoints", "nodes-2"}),
        ("allow: kube-apiserver -> api:8080", {"host-endpoints", "kube-apiserver"}),
        ("allow: web -> kube-apiserver:443", {"kube-apiserver"}),
    ],
)
def test_what_an_expectation_needs(folder: Folder, expectation: str, needed: set[str]):
    item = expectation if expectation.startswith("{") else "{" + expectation.replace(": ", ": '", 1) + "'}"
    assert features(folder, item) == needed


@pytest.mark.parametrize(
    ("kind", "spec", "needed"),
    [
        ("CiliumNetworkPolicy", "{ingress: [{}]}", set()),
        ("CiliumNetworkPolicy", "{ingress: [{toPorts: [{rules: {http: [{}]}}]}]}", {"l7-http"}),
        ("CiliumNetworkPolicy", "{ingress: [{toPorts: [{rules: {http: []}}]}]}", set()),
        ("CiliumNetworkPolicy", "{egress: [{toPorts: [{rules: {dns: [{matchPattern: '*'}]}}]}]}", {"l7-dns"}),
        ("CiliumNetworkPolicy", "{egress: [{toFQDNs: [{matchName: a.example}]}]}", {"fqdn"}),
        ("CiliumNetworkPolicy", "{egress: [{toPorts: [{serverNames: [a.example]}]}]}", {"tls-sni"}),
        ("CiliumNetworkPolicy", "{egress: [{toServices: [{k8sService: {serviceName: api}}]}]}", {"to-services"}),
        ("CiliumNetworkPolicy", "{egress: [{toCIDRSet: [{cidrGroupRef: offices}]}]}", {"cidr-group"}),
        ("CiliumNetworkPolicy", "{ingress: [{authentication: {mode: required}}]}", {"auth"}),
        ("CiliumNetworkPolicy", "{ingress: [{authentication: {mode: disabled}}]}", set()),
        ("CiliumNetworkPolicy", "{ingress: [{icmps: [{fields: [{type: 8}]}]}]}", {"icmp"}),
        ("CiliumNetworkPolicy", "{ingress: [{toPorts: [{ports: [{port: '7', protocol: SCTP}]}]}]}", {"sctp"}),
        ("CiliumNetworkPolicy", "{endpointSelector: {matchLabels: {protocol: SCTP, toFQDNs: x}}, ingress: [{}]}", set()),
        ("CiliumClusterwideNetworkPolicy", "{nodeSelector: {}, ingress: [{}]}", {"clusterwide", "host-firewall"}),
        ("CiliumClusterwideNetworkPolicy", "{endpointSelector: {}, ingress: [{}]}", {"clusterwide"}),
        ("CiliumNetworkPolicy", "{nodeSelector: {}, ingress: [{}]}", set()),
    ],
)
def test_what_a_policy_needs(folder: Folder, kind: str, spec: str, needed: set[str]):
    policy = f"{{apiVersion: cilium.io/v2, kind: {kind}, metadata: {{name: p}}, spec: {spec}}}"
    text = f"phases:\n  before: [{{allow: 'web -> api:8080'}}]\n  p: {{policies: [{policy}], expect: [{{allow: 'web -> api:8080'}}]}}\n"
    text += "  later: [{allow: 'web -> api:8080'}]\n  gone: {remove: [p], expect: [{allow: 'web -> api:8080'}]}\n"
    case = folder.case(CASE + text)
    assert [set(phase.requires.features) for phase in case.phases] == [set(), needed, needed, set()]


def test_a_policy_that_is_meant_to_be_refused_needs_nothing(folder: Folder):
    policy = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, spec: {ingress: [{toPorts: [{rules: {http: [{}], dns: [{}]}}]}]}}"
    text = f"phases:\n  p: {{policies: [{policy}], rejected: [p]}}\n  later: [{{allow: 'web -> api:8080'}}]\n"
    assert [set(phase.requires.features) for phase in folder.case(CASE + text).phases] == [set(), set()]


def test_a_clusterwide_policy_that_is_meant_to_be_refused_is_applied_all_the_same(folder: Folder):
    policy = "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: p}, spec: {ingress: [{}]}}"
    text = f"phases:\n  p: {{policies: [{policy}], rejected: [p]}}\n  later: [{{allow: 'web -> api:8080'}}]\n"
    assert [set(phase.requires.features) for phase in folder.case(CASE + text).phases] == [{"clusterwide"}, {"clusterwide"}]


def test_a_service_speaks_what_its_backends_do(folder: Folder):
    text = CASE + "services: {api: {selector: {app: api}, ports: [{port: 80, targetPort: 8080}, {port: 9000, targetPort: 90}]}}\n"
    phases = "phases: {p: [{allow: 'web -> service/api:80'}], q: [{allow: 'web -> service/api:9000'}]}\n"
    assert [set(phase.requires.features) for phase in folder.case(text + phases).phases] == [{"services"}, {"services", "l7-http", "grpc"}]


@pytest.mark.parametrize(
    ("declared", "needed"),
    [
        ("endpoints: {a: {ports: [80]}, b: {node: a}}", set()),
        ("endpoints: {a: {ports: [80]}, b: {node: b}}", {"nodes-2"}),
        ("endpoints: {a: {ports: [80]}, b: {node: c}}", {"nodes-3"}),
        ("endpoints: {a: {ports: [80]}, b: {hostNetwork: true}}", {"host-endpoints"}),
        ("endpoints: {a: {ports: [80]}, b: {}}\nexternals: {x: {}}", {"externals"}),
        ("endpoints: {a: {ports: [80], labels: {x: y}}, b: {}}\nservices: {s: {selector: {x: y}, ports: [80]}}", {"services"}),
    ],
)
def test_what_deploying_a_case_needs(folder: Folder, declared: str, needed: set[str]):
    assert folder.case(f"case: x\n{declared}\nphases: {{p: [{{allow: 'b -> a:80'}}]}}\n").requires.features == needed


def test_written_requirements_are_kept(folder: Folder):
    case = folder.case(
        CASE.replace("case: x", 'case: x\nrequires: {cilium: ">=1.16", features: [wireguard, "!spire"]}')
        + 'phases: {p: {requires: {cilium: "<1.20", features: [ipsec]}, expect: [{allow: "web -> api icmp"}]}}\n'
    )
    assert (case.requires.cilium, case.requires.features) == (">=1.16", {"wireguard", "!spire"})
    assert (case.phases[0].requires.cilium, case.phases[0].requires.features) == ("<1.20", {"ipsec", "icmp"})
