"""Kubernetes NetworkPolicy as its own API reference words it, read literally and pod by pod, against the model.

Left out is where Cilium is known to differ: addresses of pods in ipBlocks, rules of a direction that policyTypes leaves out, and named ports of pods
that only their numbers tell apart.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.policy.prefix import parse_prefix
from harness.policy.scenario import run_scenario
from tests.policy.policy_worlds import Document, law

NAMESPACES = ("red", "blue", "green")
POD_KEYS, POD_VALUES = ("app", "tier", "example.com/role.x"), ("x", "y", "z", "")
NAMESPACE_KEYS, NAMESPACE_VALUES = ("team", "a.b/c", "kubernetes.io/metadata.name"), ("x", "y", "red", "blue")
CIDRS = ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "::/0", "2001:db8::/32")
OUTSIDE = ("world:10.1.2.3", "world:10.9.0.1", "world:192.0.2.7", "world:2001:db8::5", "world:2001::1")
ASKED = (("TCP", 80), ("TCP", 8080), ("UDP", 53), ("SCTP", 55))


def selectors(keys: Sequence[str], values: Sequence[str]) -> st.SearchStrategy[Document]:
    some = st.fixed_dictionaries({
        "key": st.sampled_from(keys),
        "operator": st.sampled_from(["In", "NotIn"]),
        "values": st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True),
    })
    none = st.fixed_dictionaries({"key": st.sampled_from(keys), "operator": st.sampled_from(["Exists", "DoesNotExist"])})
    labels = st.dictionaries(st.sampled_from(keys), st.sampled_from(values), max_size=1)
    return st.fixed_dictionaries({}, optional={"matchLabels": labels, "matchExpressions": st.lists(st.one_of(some, none), max_size=1)})


def inside(cidr: str) -> list[str]:
    """The others of CIDRS that lie within this one."""
    whole = parse_prefix(cidr)
    return [each for each in CIDRS if each != cidr and whole.contains(parse_prefix(each))]


POD_SELECTORS, NAMESPACE_SELECTORS = selectors(POD_KEYS, POD_VALUES), selectors(NAMESPACE_KEYS, NAMESPACE_VALUES)
BLOCKS = st.sampled_from(CIDRS).flatmap(
    lambda cidr: st.fixed_dictionaries({"cidr": st.just(cidr)}, optional={"except": st.just(inside(cidr))})
)
PEERS = st.one_of(
    st.fixed_dictionaries({"ipBlock": BLOCKS}),
    st.fixed_dictionaries({"podSelector": POD_SELECTORS}),
    st.fixed_dictionaries({"namespaceSelector": NAMESPACE_SELECTORS}),
    st.fixed_dictionaries({"podSelector": POD_SELECTORS, "namespaceSelector": NAMESPACE_SELECTORS}),
)
PROTOCOL = {"protocol": st.sampled_from(["TCP", "UDP", "SCTP"])}
PORTS = st.one_of(
    st.fixed_dictionaries({}, optional=PROTOCOL),
    st.fixed_dictionaries({"port": st.sampled_from([53, 80, 8080, "http", "dns", "none"])}, optional=PROTOCOL),
    st.fixed_dictionaries({"port": st.sampled_from([50, 79]), "endPort": st.sampled_from([79, 80, 9000])}, optional=PROTOCOL),
)


def rules(way: str) -> st.SearchStrategy[Any]:
    rule = st.fixed_dictionaries({}, optional={way: st.lists(PEERS, max_size=2), "ports": st.lists(PORTS, max_size=2)})
    return st.lists(rule, max_size=2)


@st.composite
def policies(draw: st.DrawFn) -> list[Document]:
    found = []
    for index in range(draw(st.integers(0, 4))):
        spec = draw(st.fixed_dictionaries({"podSelector": POD_SELECTORS}, optional={"ingress": rules("from"), "egress": rules("to")}))
        wanted = {"Ingress" for _ in spec.get("ingress", ())} | {"Egress" for _ in spec.get("egress", ())}
        types = sorted(wanted | draw(st.sets(st.sampled_from(["Ingress", "Egress"]))))
        if types and draw(st.booleans()):
            spec["policyTypes"] = types
        metadata = {"name": f"p{index}", "namespace": draw(st.sampled_from(NAMESPACES))}
        found.append({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
    return found


@st.composite
def pods(draw: st.DrawFn) -> list[Document]:
    http = st.builds(
        lambda port, protocol: {"name": "http", "port": port, "protocol": protocol}, st.sampled_from([80, 8080]), st.just("TCP")
    )
    dns = st.just({"name": "dns", "port": 53, "protocol": "UDP"})
    return [
        {
            "namespace": draw(st.sampled_from(NAMESPACES)),
            "name": f"p{index}",
            "labels": {"id": str(index), **draw(st.dictionaries(st.sampled_from(POD_KEYS), st.sampled_from(POD_VALUES)))},
            "ports": [each for each in (draw(http), draw(dns)) if draw(st.booleans())],
            "node": "n1",
        }
        for index in range(draw(st.integers(2, 4)))
    ]


class Reading:
    """The reference, sentence by sentence. `pods` by `namespace/name`; any other end is `world:ADDRESS`."""

    def __init__(self, scenario: Document) -> None:
        self.pods = {f"{each['namespace']}/{each['name']}": each for each in scenario["pods"]}
        self.namespaces = {name: {"kubernetes.io/metadata.name": name, **labels} for name, labels in scenario["namespaces"].items()}
        self.policies = scenario["policies"]

    def side(self, flow: Document, direction: str) -> str:
        mine, other = (flow["dst"], flow["src"]) if direction == "Ingress" else (flow["src"], flow["dst"])
        pod = self.pods.get(mine)
        if pod is None:
            return "n/a"
        isolating = [each for each in self.policies if self._selects(each, pod) and direction in policy_types(each["spec"])]
        if not isolating:
            return "allow"
        return "allow" if any(self._allows(each, direction, other, flow) for each in isolating) else "default-deny"

    @staticmethod
    def _selects(policy: Document, pod: Document) -> bool:
        return policy["metadata"]["namespace"] == pod["namespace"] and matches(policy["spec"]["podSelector"], pod["labels"])

    def _allows(self, policy: Document, direction: str, other: str, flow: Document) -> bool:
        way = "from" if direction == "Ingress" else "to"
        for rule in policy["spec"].get(direction.lower(), ()):
            by_peer = not rule.get(way) or any(self._is(peer, policy["metadata"]["namespace"], other) for peer in rule[way])
            by_port = not rule.get("ports") or any(self._covers(port, flow) for port in rule["ports"])
            if by_peer and by_port:
                return True
        return False

    def _is(self, peer: Document, namespace: str, other: str) -> bool:
        pod = self.pods.get(other)
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            return pod is None and lies_in(other, block["cidr"]) and not any(lies_in(other, each) for each in block.get("except", ()))
        if pod is None or not matches(peer.get("podSelector", {}), pod["labels"]):
            return False
        if "namespaceSelector" in peer:
            return matches(peer["namespaceSelector"], self.namespaces[pod["namespace"]])
        return bool(pod["namespace"] == namespace)

    def _covers(self, item: Document, flow: Document) -> bool:
        if item.get("protocol", "TCP") != flow["protocol"]:
            return False
        port = item.get("port")
        if isinstance(port, str):
            wanted = {"name": port, "port": flow["port"], "protocol": flow["protocol"]}
            return flow["dst"] in self.pods and wanted in self.pods[flow["dst"]]["ports"]
        return port is None or port <= flow["port"] <= item.get("endPort", port)


def policy_types(spec: Document) -> Sequence[str]:
    """Ingress unless said otherwise, and Egress if there are egress rules."""
    return spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


def matches(selector: Document, labels: Mapping[str, str]) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions", ()):
        there = each["key"] in labels
        listed = there and labels[each["key"]] in each.get("values", ())
        if not {"In": listed, "NotIn": not listed, "Exists": there, "DoesNotExist": not there}[each["operator"]]:
            return False
    return True


def lies_in(end: str, cidr: str) -> bool:
    return ipaddress.ip_address(end.removeprefix("world:")) in ipaddress.ip_network(cidr)


@law(150)
@given(
    st.fixed_dictionaries({
        name: st.dictionaries(st.sampled_from(NAMESPACE_KEYS[:2]), st.sampled_from(NAMESPACE_VALUES)) for name in NAMESPACES
    }),
    pods(),
    policies(),
)
def test_the_model_reads_network_policies_as_kubernetes_words_them(
    namespaces: Mapping[str, Mapping[str, str]], pods: list[Document], policies: list[Document]
) -> None:
    ends = [*(f"{each['namespace']}/{each['name']}" for each in pods), *OUTSIDE]
    flows = [
        {"src": source, "dst": target, "protocol": protocol, "port": port}
        for source in ends
        for target in ends
        if not {source, target} <= set(OUTSIDE)
        for protocol, port in ASKED
    ]
    scenario = {"id": "reading", "namespaces": namespaces, "pods": pods, "policies": policies, "flows": flows}
    answer, clean = run_scenario(scenario)
    assert clean
    assert answer["policy_errors"] == {}
    reading = Reading(scenario)
    for flow, found in zip(flows, answer["verdicts"], strict=True):
        assert (found["ingress"], found["egress"]) == (reading.side(flow, "Ingress"), reading.side(flow, "Egress")), flow
