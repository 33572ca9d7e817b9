from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.case import Action, Case, EndpointSpec, Expectation, ExternalSpec, Party, PartyKind, PortSpec, Target
from harness.cases.expectations import names_of
from harness.cases.grammar import parse_sentence
from harness.cases.names import Names
from harness.cases.otherwise import otherwise
from harness.errors import CaseError, Location
from harness.model.traffic import Protocol
from tests.cases.case_folder import Folder

HERE = Location("x.yaml", 1)

PORTS = st.lists(
    st.builds(PortSpec, st.integers(1, 5), st.sampled_from((Protocol.TCP, Protocol.UDP))),
    max_size=3,
    unique_by=lambda each: (each.port, each.protocol),
).map(tuple)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Names, tuple[Expectation, ...]]:
    """A case's names and some written expectations of it."""
    endpoints = {
        name: EndpointSpec(name, "default", {}, HERE, ports=draw(PORTS), host_network=draw(st.booleans()))
        for name in "abcd"[: draw(st.integers(0, 4))]
    }
    externals = {name: ExternalSpec(name, HERE, ports=draw(PORTS)) for name in "xy"[: draw(st.integers(0, 2))]}
    names = Names("default", endpoints, {}, externals)
    reachable = [
        Target(Party(kind, spec.name), port.port, port.protocol, "")
        for kind, specs in ((PartyKind.ENDPOINT, endpoints), (PartyKind.EXTERNAL, externals))
        for spec in specs.values()
        for port in spec.ports
    ]
    if not endpoints or not reachable:
        return names, ()
    sources = st.lists(st.sampled_from(sorted(endpoints)), min_size=1, max_size=3, unique=True)
    written = draw(
        st.lists(
            st.builds(
                lambda some, targets: Expectation(
                    Action.ALLOW, "", tuple(Party(PartyKind.ENDPOINT, each) for each in some), tuple(targets), HERE
                ),
                sources,
                st.lists(st.sampled_from(reachable), min_size=1, max_size=3),
            ),
            max_size=4,
        )
    )
    return names, tuple(written)


def triples(expectations: tuple[Expectation, ...]) -> list[tuple[str, str, int | None, Protocol]]:
    return [
        (source.name, target.party.name, target.port, target.protocol)
        for each in expectations
        for source in each.sources
        for target in each.targets
    ]


@given(worlds())
def test_written_and_closed_world_expectations_name_every_triple_and_none_twice(world: tuple[Names, tuple[Expectation, ...]]):
    names, written = world
    closed = triples(otherwise(Action.DENY, written, names, HERE))
    every = {
        (source.name, target.name, port.port, port.protocol)
        for source in names.endpoints.values()
        if not source.host_network
        for target in (*names.endpoints.values(), *names.externals.values())
        if target.name != source.name
        for port in target.ports
    }
    assert len(closed) == len(set(closed))
    assert set(closed).isdisjoint(triples(written))
    assert set(closed) == every - set(triples(written))


@given(worlds())
def test_the_text_of_a_closed_world_expectation_says_what_it_is(world: tuple[Names, tuple[Expectation, ...]]):
    names, written = world
    for each in otherwise(Action.DENY, written, names, HERE):
        sentence = parse_sentence(each.text)
        assert [str(term) for term in sentence.sources] == [party.name for party in each.sources]
        assert [str(term) for term in sentence.targets] == [target.written for target in each.targets]
        assert each.closed_world


CASE = """\
case: x
endpoints:
  web: {}
  api: {labels: {app: api}, ports: [8080, {port: 9090, name: metrics}]}
  agent: {hostNetwork: true, ports: [9100]}
services:
  api: {selector: {app: api}, ports: [{port: 80, targetPort: 8080}]}
externals:
  stripe: {names: [api.stripe.com], addresses: [203.0.113.9], ports: [443]}
phases:
  p:
    expect: [EXPECTED]
    otherwise: deny
"""


def closed_world(folder: Folder, *expected: str) -> list[str]:
    case: Case = folder.case(CASE.replace("EXPECTED", ", ".join(f"{{{each}}}" for each in expected)))
    assert names_of(case).endpoints
    return [each.text for each in case.phases[0].expectations if each.closed_world]


def test_a_service_names_its_backends_ports(folder: Folder):
    assert closed_world(folder, "allow: web -> service/api:80") == [
        "web -> api:9090", "web, api -> agent:9100", "web, api -> stripe:443",
    ]  # fmt: skip


def test_the_dns_names_and_addresses_of_an_external_name_it(folder: Folder):
    for target in ("stripe:443", "api.stripe.com:443", "203.0.113.9:443"):
        assert closed_world(folder, f'allow: "web, api -> {target}"')[-1] == "web, api -> agent:9100"


def test_a_request_does_not_matter(folder: Folder):
    assert "web -> api:8080" not in closed_world(folder, "allow: web -> api:8080 GET /x")


def test_icmp_and_built_ins_name_nothing(folder: Folder):
    everything = ["web -> api:8080", "web -> api:9090", "web, api -> agent:9100", "web, api -> stripe:443"]
    assert closed_world(folder, "allow: web -> api icmp", "allow: host -> api:8080") == everything


def test_without_expectations_it_is_the_whole_world(folder: Folder):
    case = folder.case(CASE.replace("    expect: [EXPECTED]\n", ""))
    assert len(case.phases[0].expectations) == 4
    assert {each.action for each in case.phases[0].expectations} == {Action.DENY}
    assert {each.location.line for each in case.phases[0].expectations} == {12}


@pytest.mark.parametrize("world", ["server: {}", "server: {ports: [8080]}", "client:\n  server:", "a: {hostNetwork: true, ports: [8080]}"])
def test_a_closed_world_without_anybody_to_ask_is_a_mistake(folder: Folder, world: str):
    with pytest.raises(CaseError, match="`otherwise: deny` finds nobody to ask: phase `closed` expects nothing") as raised:
        folder.case(f"case: nobody\nendpoints:\n  {world}\nphases:\n  closed:\n    otherwise: deny\n")
    assert raised.value.hint == "it takes a pod as source, and a port that another endpoint or an external declares"


def test_what_is_written_may_leave_a_closed_world_nothing_to_add(folder: Folder):
    text = "case: x\nendpoints:\n  a:\n  b: {ports: [80]}\nphases:\n  p:\n    expect: [allow: a -> b:80]\n    otherwise: deny\n"
    assert [each.closed_world for each in folder.case(text).phases[0].expectations] == [False]


def test_a_case_that_expects_nothing_is_a_mistake(folder: Folder):
    policy = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, spec: {endpointSelector: {}, ingress: []}}"
    text = f"case: x\nendpoints: {{a: {{}}}}\nphases:\n  p:\n    policies: [{policy}]\n"
    with pytest.raises(CaseError, match="case `x` expects nothing, so it would pass whatever happens"):
        folder.case(text)
    assert folder.case(text + "    rejected: [p]\n").phases[0].rejected
