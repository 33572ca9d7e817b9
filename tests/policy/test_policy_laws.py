"""Laws of policy that hold for every cluster and every set of policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.model.cluster import ClusterState
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import Decision
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.parse import API_VERSIONS, parse_policy
from harness.policy.repository import Repository
from harness.policy.table import decide
from tests.policy.policy_worlds import NAMESPACES, ccnp, cilium_policies, law, repositories, states

POINTS = [(Protocol.TCP, port) for port in (1, 53, 80, 443, 8080)] + [(Protocol.UDP, 53), (Protocol.ICMP, 8), (Protocol.ICMPV6, 128)]

Document = dict[str, Any]
Point = tuple[str, Direction, tuple[str, ...], Protocol, int]


def reachable(state: ClusterState, policies: list[Document]) -> Iterator[tuple[Point, Decision]]:
    """The decision of each pod and direction about each peer (known by its labels), protocol and port.

    Pods only: an endpoint that is still `init` is in default deny without any rule, and in 1.20 any rule brings it the host allow.
    """
    made = Evaluator(state, Repository.empty().change(apply=policies))
    for subject in made.subjects.pods.values():
        for direction in Direction:
            table = made.subjects.table(subject, direction)
            for position, identity in enumerate(made.identities.identities):
                peer = tuple(sorted(map(str, identity.labels)))
                for protocol, port in POINTS:
                    yield (
                        (subject.name, direction, peer, protocol, port),
                        table.decision(position, protocol.number, port, made.options),
                    )


def allowed(state: ClusterState, policies: list[Document]) -> set[Point]:
    return {point for point, decision in reachable(state, policies) if decision is Decision.ALLOW}


def isolating_everything() -> Document:
    """Every endpoint in default deny, both ways."""
    return ccnp("isolate", subject={}, ingress=[{}], egress=[{}])


@law(40)
@given(states(), repositories(plain=True), cilium_policies("denies", plain=True, lists=["ingressDeny", "egressDeny"]))
def test_a_deny_rule_never_adds_reachability(state: ClusterState, policies: list[Document], deny: Document) -> None:
    before, after = allowed(state, policies), allowed(state, [*policies, deny])
    # A new prefix has an identity of its own; compare what both know.
    assert {point for point in after if point[2] in {each[2] for each in before}} <= before


@law(40)
@given(states(), repositories(plain=True), cilium_policies("allows", plain=True, lists=["ingress", "egress"]))
def test_an_allow_rule_under_default_deny_never_removes_reachability(
    state: ClusterState, policies: list[Document], allow: Document
) -> None:
    policies = [isolating_everything(), *policies]
    assert allowed(state, policies) <= allowed(state, [*policies, allow])


@law(40)
@given(states(), repositories())
def test_the_order_of_application_does_not_matter(state: ClusterState, policies: list[Document]) -> None:
    assert dict(reachable(state, policies)) == dict(reachable(state, policies[::-1]))


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A document (or labels) with namespaces renamed wherever a namespace is meant."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


@law(40)
@given(states(), repositories())
def test_renaming_namespaces_commutes_with_evaluation(state: ClusterState, policies: list[Document]) -> None:
    names = {name: f"{name}-renamed" for name in NAMESPACES}

    def moved(pod: Any) -> Any:
        return type(pod)(
            type(pod.ref)(names[pod.ref.namespace], pod.ref.name), pod.labels, pod.node, pod.service_account, pod.ports, pod.cluster
        )

    other = ClusterState(
        namespaces=renamed(dict(state.namespaces), names),
        pods=tuple(map(moved, state.pods)),
        externals=state.externals,
        services=tuple(
            type(each)(names[each.namespace], each.name, each.selector, labels=each.labels, backends=each.backends)
            for each in state.services
        ),
        cidr_groups=state.cidr_groups,
    )

    def rename_point(point: Point) -> Point:
        subject, direction, peer, protocol, port = point
        for old, new in names.items():
            subject = subject.replace(f"{old}/", f"{new}/")
            peer = tuple(label.replace(f"namespace={old}", f"namespace={new}").replace(f"name={old}", f"name={new}") for label in peer)
        return subject, direction, tuple(sorted(peer)), protocol, port

    mine = {rename_point(point): decision for point, decision in reachable(state, policies)}
    assert mine == dict(reachable(other, renamed(policies, names)))


@law(40)
@given(states(), repositories())
def test_without_policies_for_it_an_endpoint_is_open(state: ClusterState, policies: list[Document]) -> None:
    made = Evaluator(state, Repository.empty().change(apply=policies))
    for subject in made.subjects.pods.values():
        for direction in Direction:
            table = made.subjects.table(subject, direction)
            assert table.enforced == bool(made.subjects.rules_for(subject, direction)) or table.error


@law(40)
@given(states(), repositories())
def test_removing_what_was_applied_restores_the_cluster(state: ClusterState, policies: list[Document]) -> None:
    empty = Repository.empty()
    full = empty.change(apply=policies)
    refs = [policy.ref for policy in full.enforced] + list(full.errors)
    again = full.change(remove=refs)
    assert not again.enforced
    assert not again.errors
    assert {table.enforced for table in _tables(state, again)} == {False} or not state.pods


def _tables(state: ClusterState, repository: Repository) -> Iterator[Any]:
    made = Evaluator(state, repository)
    for subject in made.subjects.pods.values():
        for direction in Direction:
            yield made.subjects.table(subject, direction)


def naive(evaluator: Evaluator, name: str, direction: Direction, position: int, protocol: Protocol, port: int) -> Decision:
    """The algorithm of the specification read literally, for plain rules: any deny, else any allow, else default deny or not."""
    subject = next(each for each in evaluator.subjects.all() if each.name == name)
    rules = [each for each in evaluator.subjects.rules if each.direction is direction and evaluator.subjects.selected_by(each, subject)]
    if not rules:
        return Decision.ALLOW
    matching = [each for each in rules if _peer_matches(evaluator, each, position) and _port_matches(each, protocol, port)]
    if any(each.deny for each in matching):
        return Decision.DENY_RULE
    host = evaluator.identities.identities[position].number == 1
    if matching or (host and direction is Direction.INGRESS) or not any(each.default_deny for each in rules):
        return Decision.ALLOW
    return Decision.DEFAULT_DENY


def _peer_matches(evaluator: Evaluator, rule: Any, position: int) -> bool:
    if rule.peers is None or not (rule.peers or rule.ports):
        return False
    return not rule.peers or any(evaluator.identities.select(peer).certain >> position & 1 for peer in rule.peers)


def _port_matches(rule: Any, protocol: Protocol, port: int) -> bool:
    if not rule.ports:
        return True
    for each in (port for item in rule.ports for port in item.ports):
        if each.protocol is None and not protocol.has_ports:
            continue
        if each.protocol not in (None, protocol):
            continue
        if each.port == 0 or each.port <= port <= max(each.port, each.end_port):
            return True
    return False


@law(40)
@given(states(), repositories(plain=True).filter(lambda documents: not any(name in str(documents) for name in ("'http'", "'dns'"))))
def test_the_tables_equal_the_specification_read_literally(state: ClusterState, policies: list[Document]) -> None:
    made = Evaluator(state, Repository.empty().change(apply=policies))
    for subject in made.subjects.pods.values():
        for direction in Direction:
            table = made.subjects.table(subject, direction)
            for position in range(len(made.identities.identities)):
                for protocol, port in POINTS:
                    expected = naive(made, subject.name, direction, position, protocol, port)
                    assert made.decided(table, position, protocol, port).decision is expected


def test_nothing_matching_is_the_default() -> None:
    for default in (Decision.ALLOW, Decision.DEFAULT_DENY):
        assert decide((), default, Options()).decision is default


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)

_WORDS = [
    "spec",
    "specs",
    "metadata",
    "name",
    "namespace",
    "endpointSelector",
    "nodeSelector",
    "podSelector",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "ingress",
    "egress",
    "ingressDeny",
    "egressDeny",
    "fromEndpoints",
    "toEndpoints",
    "fromEntities",
    "toEntities",
    "fromCIDR",
    "toCIDR",
    "fromCIDRSet",
    "toCIDRSet",
    "cidr",
    "except",
    "cidrGroupRef",
    "cidrGroupSelector",
    "toFQDNs",
    "matchName",
    "matchPattern",
    "toServices",
    "k8sService",
    "serviceName",
    "k8sServiceSelector",
    "selector",
    "toPorts",
    "ports",
    "port",
    "endPort",
    "protocol",
    "rules",
    "http",
    "path",
    "method",
    "host",
    "headers",
    "headerMatches",
    "secret",
    "dns",
    "serverNames",
    "listener",
    "envoyConfig",
    "terminatingTLS",
    "icmps",
    "fields",
    "type",
    "family",
    "authentication",
    "mode",
    "enableDefaultDeny",
    "policyTypes",
    "from",
    "to",
    "ipBlock",
    "log",
    "value",
]
_TEXTS = st.sampled_from([
    "",
    "In",
    "Exists",
    "TCP",
    "ANY",
    "ICMP",
    "80",
    "http",
    "0",
    "70000",
    "10.0.0.0/8",
    "::/0",
    "1.2.3.4",
    "all",
    "app",
    "k8s:app",
    "a:b:c",
    "[",
])


def shaped(depth: int) -> st.SearchStrategy[Any]:
    """Documents made of the words of the policy language, put together without sense."""
    leaf: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(-1, 70000), _TEXTS)
    if not depth:
        return leaf
    inner = st.deferred(lambda: shaped(depth - 1))
    return st.one_of(leaf, st.lists(inner, max_size=2), st.dictionaries(st.one_of(st.sampled_from(_WORDS), _TEXTS), inner, max_size=3))


def mutated(draw: st.DrawFn, value: Any) -> Any:
    """The value with one place replaced by something of another type."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: mutated(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], mutated(draw, value[index]), *value[index + 1 :]]
    return draw(shaped(2))


@st.composite
def mutants(draw: st.DrawFn, make: Callable[[], st.SearchStrategy[list[Document]]] = repositories) -> Document:
    documents = draw(make().filter(bool))
    found = mutated(draw, documents[0])
    return {**found, "kind": documents[0]["kind"]} if isinstance(found, dict) else documents[0]


def parses(document: Document) -> None:
    for cilium in ("1.18", "1.19", "1.20"):
        policy = parse_policy(document, Options.of(cilium))
        assert (policy.error is None) or not policy.rules
        if policy.error is not None:
            assert policy.error.message


@law(100)
@given(st.sampled_from(sorted(API_VERSIONS)), st.dictionaries(st.sampled_from(["spec", "specs", "metadata"]), json_values))
def test_parsing_never_raises_on_arbitrary_json(kind: str, content: Document) -> None:
    parses({"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": {"name": "p"}, **content})


@law(100)
@given(st.sampled_from(sorted(API_VERSIONS)), shaped(5))
def test_parsing_never_raises_on_the_languages_own_words(kind: str, content: Any) -> None:
    parses({"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": {"name": "p"}, "spec": content})


@law(100)
@given(mutants())
def test_parsing_never_raises_on_a_broken_policy(document: Document) -> None:
    parses(document)
