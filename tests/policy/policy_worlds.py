"""Small clusters and policies for the tests of the policy model: the cluster of the written vectors, short forms, random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.model.cluster import CIDRGroup, ClusterState, ContainerPort, ExternalHost, Pod, Service
from harness.model.traffic import Peer, PodRef, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import PolicyVerdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository
from harness.policy.scenario import peer

Document = dict[str, Any]


def law(examples: int) -> settings:
    """How a law is tested: so many examples, however slow the machine is at the moment."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pod(namespace: str, name: str, labels: Mapping[str, str], *ports: ContainerPort, **more: Any) -> Pod:
    return Pod(PodRef(namespace, name), labels, more.pop("node", "n1"), more.pop("service_account", "default"), ports, **more)


HTTP = ContainerPort(8080, Protocol.TCP, "http")
DNS = ContainerPort(5353, Protocol.UDP, "dns")
WORLD = ClusterState(
    namespaces={"a": {"team": "x"}, "b": {"team": "y"}, "c": {"team": "x"}},
    pods=(
        pod("a", "a1", {"app": "a"}),
        pod("a", "a2", {"app": "b"}),
        pod("b", "b1", {"app": "a"}),
        pod("a", "web", {"app": "web"}, HTTP, DNS),
        pod("c", "c1", {"app": "a"}, service_account="robot"),
    ),
)
"""The cluster of the written vectors: a1, a2 and web in a, b1 in b, c1 in c."""


def cnp(name: str = "p", namespace: str = "a", *, subject: Mapping[str, Any] | None = None, **spec: Any) -> Document:
    """A CiliumNetworkPolicy; without `subject` it selects app=web."""
    selector = {"matchLabels": {"app": "web"}} if subject is None else dict(subject)
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"endpointSelector": selector, **spec},
    }


def ccnp(name: str = "p", *, subject: Mapping[str, Any] | None = None, **spec: Any) -> Document:
    document = cnp(name, subject=subject, **spec)
    document["kind"] = "CiliumClusterwideNetworkPolicy"
    del document["metadata"]["namespace"]
    return document


def knp(name: str = "p", namespace: str = "a", *, subject: Mapping[str, Any] | None = None, **spec: Any) -> Document:
    selector = {"matchLabels": {"app": "web"}} if subject is None else dict(subject)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": selector, **spec},
    }


def ports(*texts: str, **more: Any) -> list[Document]:
    """`ports("8080/TCP", "dns")` as one item of toPorts; `more` are its rules, serverNames and so on."""
    found = []
    for text in texts:
        port, slash, protocol = text.partition("/")
        found.append({"port": port, **({"protocol": protocol} if slash else {})})
    return [{"ports": found, **more}]


def app(name: str, **labels: str) -> Document:
    return {"matchLabels": {"app": name, **labels}}


def evaluator(
    *policies: Document, state: ClusterState = WORLD, learned: Mapping[str, Sequence[str]] | None = None, **options: Any
) -> Evaluator:
    repository = Repository.empty(Options.of(options.pop("cilium", "1.20"), **options)).change(apply=policies)
    return Evaluator(state, repository, learned)


def traffic(text: str) -> Traffic:
    """`a/a1 -> a/web:8080`, `world:8.8.8.8 -> a/web:53/UDP`, `a/a1 -> a/web ping`, with `GET /path`, `sni NAME`, `lookup NAME` behind."""
    source, _, rest = text.partition(" -> ")
    target, _, request = rest.partition(" ")
    head, _, protocol = target.rpartition("/") if target.rpartition("/")[2] in Protocol.__members__ else (target, "", "")
    if request in ("ping", "ping6"):
        return Traffic(end(source), end(target), Protocol.ICMP if request == "ping" else Protocol.ICMPV6, 8 if request == "ping" else 128)
    destination, _, port = (head or target).rpartition(":")
    return Traffic(end(source), end(destination), Protocol(protocol or "TCP"), int(port), _request(request))


def end(text: str) -> Peer:
    return peer(text)


def _request(text: str) -> Request | None:
    if not text:
        return None
    word, _, rest = text.partition(" ")
    if word == "lookup":
        return Request(RequestKind.LOOKUP, name=rest)
    if word == "sni":
        return Request(RequestKind.TLS, name=rest)
    path, _, header = rest.partition(" ")
    name, colon, value = header.partition(": ")
    return Request(RequestKind.HTTP, method=word, path=path, headers=((name, value),) if colon else ())


def ask(text: str, *policies: Document, **options: Any) -> PolicyVerdict:
    return evaluator(*policies, **options).verdict(traffic(text))


# Random clusters and policies. Small alphabets, so that things meet.

NAMESPACES = ("red", "blue")
KEYS = ("app", "tier")
VALUES = ("x", "y", "z")
NAMES = ("http", "dns")
ADDRESSES = ("10.0.0.1", "10.0.1.1", "192.0.2.7", "fd00::1")
CIDRS = ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "192.0.2.0/24", "::/0", "fd00::/8")
PORTS = (53, 80, 443, 8080)

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)
container_ports = st.builds(
    ContainerPort, st.sampled_from(PORTS), st.sampled_from([Protocol.TCP, Protocol.UDP]), st.sampled_from([*NAMES, None])
)


@st.composite
def states(draw: st.DrawFn) -> ClusterState:
    pods = draw(
        st.lists(
            st.tuples(st.sampled_from(NAMESPACES), labels, st.lists(container_ports, max_size=2), st.sampled_from(["n1", "n2"])),
            min_size=1,
            max_size=5,
        )
    )
    return ClusterState(
        namespaces={name: {"team": draw(st.sampled_from(VALUES))} for name in NAMESPACES},
        pods=tuple(
            pod(namespace, f"p{index}", dict(found), *names, node=node) for index, (namespace, found, names, node) in enumerate(pods)
        ),
        externals=tuple(
            ExternalHost(f"e{index}", address, kube_apiserver=draw(st.booleans()))
            for index, address in enumerate(draw(st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=2)))
        ),
        services=(
            Service("red", "svc", {"app": "x"}),
            Service("blue", "out", None, backends=("192.0.2.7",), labels={"app": "y"}),
        ),
        cidr_groups=(CIDRGroup("g", ("10.0.0.0/24", "fd00::/64"), {"app": "x"}),),
    )


def _selector(extra: Sequence[str] = ()) -> st.SearchStrategy[Document]:
    keys = st.sampled_from([*KEYS, *extra])
    expression = st.one_of(
        st.fixed_dictionaries({
            "key": keys,
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(st.sampled_from([*VALUES, *NAMESPACES]), min_size=1, max_size=2),
        }),
        st.fixed_dictionaries({"key": keys, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
    )
    return st.fixed_dictionaries({}, optional={"matchLabels": labels.map(dict), "matchExpressions": st.lists(expression, max_size=1)})


selectors = _selector()
peers = _selector([
    "k8s:io.kubernetes.pod.namespace",
    "io.cilium.k8s.namespace.labels.team",
    "reserved:host",
    "io.cilium.k8s.policy.cluster",
])
entity_names = st.sampled_from(["all", "world", "cluster", "host", "remote-node", "kube-apiserver", "health", "init", "none"])
cidr_rules = st.one_of(
    st.sampled_from(CIDRS).map(lambda text: {"cidr": text}),
    st.just({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/24"]}),
    st.just({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.0/24"]}),
    st.just({"cidrGroupRef": "g"}),
    st.just({"cidrGroupSelector": {"matchLabels": {"app": "x"}}}),
)
port_items = st.one_of(
    st.builds(
        lambda port, protocol: {"port": str(port), "protocol": protocol},
        st.sampled_from([0, *PORTS]),
        st.sampled_from(["TCP", "UDP", "SCTP", "ANY"]),
    ),
    st.builds(
        lambda first, width: {"port": str(first), "endPort": first + width, "protocol": "TCP"},
        st.sampled_from([50, 79, 440]),
        st.integers(0, 8000),
    ),
    st.builds(lambda name, protocol: {"port": name, "protocol": protocol}, st.sampled_from(NAMES), st.sampled_from(["TCP", "UDP", "ANY"])),
)
icmp_items = st.fixed_dictionaries({"type": st.sampled_from([0, 8, 128]), "family": st.sampled_from(["IPv4", "IPv6"])})


@st.composite
def elements(draw: st.DrawFn, way: str, *, deny: bool = False, plain: bool = False) -> Document:
    """One item of ingress, egress or their deny lists. `plain`: without L7 and authentication, which take away what others allow."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "": st.none(),
        f"{way}Endpoints": st.lists(peers, max_size=2),
        f"{way}Entities": st.lists(entity_names, max_size=2),
        f"{way}CIDR": st.lists(st.sampled_from(CIDRS), max_size=2),
        f"{way}CIDRSet": st.lists(cidr_rules, max_size=2),
    }
    if way == "to" and not deny:
        kinds["toFQDNs"] = st.just([{"matchPattern": "*.example.com"}])
        kinds["toServices"] = st.just([{"k8sService": {"serviceName": "svc", "namespace": "red"}}])
    kind = draw(st.sampled_from(sorted(kinds)))
    element: Document = {kind: draw(kinds[kind])} if kind else {}
    layer = draw(st.sampled_from(["none", "ports", "icmps", "l7"] if not (deny or plain) else ["none", "ports", "icmps"]))
    if layer == "ports":
        element["toPorts"] = [{"ports": draw(st.lists(port_items, max_size=3))}]
    elif layer == "icmps":
        element["icmps"] = [{"fields": draw(st.lists(icmp_items, max_size=2))}]
    elif layer == "l7":
        element["toPorts"] = [draw(_l7(way))]
    if not (deny or plain) and draw(st.integers(0, 5)) == 0:
        element["authentication"] = {"mode": draw(st.sampled_from(["disabled", "required"]))}
    return element


def _l7(way: str) -> st.SearchStrategy[Document]:
    tcp = st.sampled_from(["80", "8080", "http"])
    found = [
        st.builds(lambda port: {"ports": [{"port": port, "protocol": "TCP"}], "rules": {"http": [{"path": "/x"}]}}, tcp),
        st.builds(lambda port: {"ports": [{"port": port, "protocol": "TCP"}], "serverNames": ["x.io"]}, tcp),
    ]
    if way == "to":
        found.append(st.just({"ports": [{"port": "53", "protocol": "ANY"}], "rules": {"dns": [{"matchPattern": "*.io"}]}}))
    return st.one_of(found)


LISTS = (("ingress", "from", False), ("ingressDeny", "from", True), ("egress", "to", False), ("egressDeny", "to", True))


@st.composite
def cilium_policies(draw: st.DrawFn, name: str = "p", *, plain: bool = False, lists: Sequence[str] = ()) -> Document:
    chosen = [each for each in LISTS if each[0] in lists] if lists else LISTS
    spec: Document = {}
    for key, way, deny in draw(st.lists(st.sampled_from(chosen), min_size=1, max_size=2, unique=True)):
        spec[key] = draw(st.lists(elements(way, deny=deny, plain=plain), min_size=1, max_size=2))
    if not plain and draw(st.integers(0, 3)) == 0:
        spec["enableDefaultDeny"] = {draw(st.sampled_from(["ingress", "egress"])): draw(st.booleans())}
    subject = draw(selectors)
    if draw(st.booleans()):
        return ccnp(name, subject=subject, **spec)
    return cnp(name, draw(st.sampled_from(NAMESPACES)), subject=subject, **spec)


@st.composite
def network_policies(draw: st.DrawFn, name: str = "p") -> Document:
    peer_item = st.one_of(
        st.builds(lambda each: {"podSelector": each}, selectors),
        st.builds(lambda each: {"namespaceSelector": each}, _selector(["kubernetes.io/metadata.name"])),
        st.builds(lambda one, other: {"podSelector": one, "namespaceSelector": other}, selectors, selectors),
        st.sampled_from(CIDRS).map(lambda text: {"ipBlock": {"cidr": text}}),
    )
    port_item = st.one_of(
        st.builds(lambda port: {"port": port}, st.sampled_from([*PORTS, *NAMES])),
        st.builds(lambda first, width: {"port": first, "endPort": first + width}, st.sampled_from(PORTS), st.integers(0, 500)),
        st.just({"protocol": "UDP"}),
    )

    def rules(way: str) -> st.SearchStrategy[Any]:
        return st.lists(
            st.fixed_dictionaries({}, optional={way: st.lists(peer_item, max_size=2), "ports": st.lists(port_item, max_size=2)}),
            max_size=2,
        )

    spec = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "ingress": rules("from"),
                "egress": rules("to"),
                "policyTypes": st.lists(st.sampled_from(["Ingress", "Egress"]), unique=True),
            },
        )
    )
    return knp(name, draw(st.sampled_from(NAMESPACES)), subject=draw(selectors), **spec)


def repositories(*, plain: bool = False) -> st.SearchStrategy[list[Document]]:
    """Up to four policies of all kinds, with names of their own."""
    return st.lists(st.one_of(cilium_policies(plain=plain), network_policies()), max_size=4).map(_named)


def _named(documents: list[Document]) -> list[Document]:
    return [{**each, "metadata": {**each["metadata"], "name": f"p{index}"}} for index, each in enumerate(documents)]
