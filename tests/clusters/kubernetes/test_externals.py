"""The file that maps externals, and which cases can run with it."""

from __future__ import annotations

import pytest

from harness.cases.load import load_cases
from harness.clusters.kubernetes.externals import WITNESS, Externals
from harness.clusters.kubernetes.objects import case_objects
from harness.clusters.kubernetes.rename import Renaming
from harness.clusters.kubernetes.run import RunId
from harness.clusters.kubernetes.wishes import PodOptions
from harness.errors import UsageError

FILE = """
internet: {addresses: [203.0.113.10, "2001:db8:113::10"], ports: [443, 80]}
world:
  addresses: [198.51.100.7]
  ports: [443]
"""
CASE = """
case: outside
endpoints: {{web: {{}}, api: {{ports: [8080]}}}}
externals: {{{externals}}}
phases:
  p: [{expectation}]
"""
INTERNET = "internet: {addresses: [203.0.113.10], ports: [443]}"


@pytest.fixture
def externals(tmp_path) -> Externals:
    path = tmp_path / "externals.yaml"
    path.write_text(FILE)
    return Externals.read(str(path))


@pytest.fixture
def case(tmp_path):
    def made(expectation: str, externals: str = INTERNET):
        path = tmp_path / "test_case.yaml"
        path.write_text(CASE.format(externals=externals, expectation="{" + expectation + "}"))
        return load_cases(path)[0]

    return made


@pytest.mark.parametrize(
    ("expectation", "declared"),
    [
        ("allow: 'web -> internet:443'", INTERNET),
        ("allow: 'web -> 203.0.113.10:443'", INTERNET),
        ("allow: 'web -> internet:443', family: both", "internet: {addresses: [203.0.113.10, '2001:db8:113::10'], ports: [443]}"),
        ("allow: 'web -> internet:80'", "internet: {ports: [80]}"),
        ("deny: 'web -> world:443'", ""),
        ("allow: 'web -> api:8080'", INTERNET),
    ],
)
def test_a_case_whose_externals_are_all_mapped_can_run(expectation, declared, externals, case):
    assert externals.lacking(case(expectation, declared)) == ""


@pytest.mark.parametrize(
    ("expectation", "declared", "why"),
    [
        ("allow: 'web -> stripe:443'", "stripe: {ports: [443]}", "`stripe` is not in externals.yaml"),
        ("allow: 'web -> api:8080'", "stripe: {ports: [443]}", "`stripe` is not in externals.yaml"),
        ("allow: 'web -> internet:443'", "internet: {addresses: [203.0.113.99], ports: [443]}", "the case's `internet` is 203.0.113.99"),
        ("allow: 'web -> internet:8443'", "internet: {ports: [8443]}", "does not say that `internet` has this port"),
        ("allow: 'web -> internet:443/UDP'", "internet: {ports: [{port: 443, protocol: UDP}]}", "only TCP"),
        ("allow: 'web -> internet icmp'", INTERNET, "only TCP"),
        ("allow: 'web -> world:443', family: ipv6", "", "`world` has no ipv6 address in externals.yaml"),
        ("deny: 'web -> 192.0.2.1:443', undeclared: true", "", "`192.0.2.1:443` belongs to no external of the case"),
    ],
)
def test_one_that_asks_for_more_says_for_what(expectation, declared, why, externals, case):
    assert why in externals.lacking(case(expectation, declared))


def test_the_cases_own_addresses_win_and_others_are_one_of_a_family(externals, case):
    assert externals.addresses(case("allow: 'web -> internet:443'")) == {"external:internet": ("203.0.113.10",), "world": ("198.51.100.7",)}
    found = externals.addresses(case("allow: 'web -> internet:80'", "internet: {ports: [80]}"))
    assert found["external:internet"] == ("203.0.113.10", "2001:db8:113::10")
    (spec,) = externals.applied(case("allow: 'web -> internet:80'", "internet: {ports: [80]}")).externals.values()
    assert spec.addresses == ("203.0.113.10", "2001:db8:113::10")


def test_a_case_that_stays_inside_needs_no_witness(externals, case):
    assert not externals.serves(case("allow: 'web -> api:8080'", ""))
    assert externals.serves(case("allow: 'web -> internet:443'"))
    assert not Externals().serves(case("allow: 'web -> internet:443'"))


def test_the_witness_is_in_a_namespace_that_no_policy_of_the_case_reaches(case):
    made = case("allow: 'web -> internet:443'")
    renaming = Renaming.of(made.namespaces, "k7x2qd-1")
    placed = {ref: "one" for spec in made.endpoints.values() for ref in spec.pods()}
    objects = case_objects(made, renaming, RunId(), placed, PodOptions(), allow_host=False, witness="one")
    assert objects.pods[WITNESS].namespace not in renaming.namespaces.values()
    assert objects.pods[WITNESS].namespace in {each["metadata"]["name"] for each in objects.namespaces}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("internet: 203.0.113.10", 1, "`internet` needs `addresses` and `ports`"),
        ("a: {addresses: [203.0.113.10]}", 1, "`a` needs `addresses` and `ports`"),
        ("\na: {addresses: [203.0.113.10], ports: [1], names: [x]}", 2, "and nothing else"),
        ("a: {addresses: [], ports: [1]}", 1, "`addresses` of `a` must be a list"),
        ("a:\n  addresses: [api.example]\n  ports: [443]", 2, "`api.example` is no IP address"),
        ("a:\n  addresses: [203.0.113.10]\n  ports: [https]", 3, "`https` is no port"),
        ("a: {addresses: [203.0.113.10], ports: [65536]}", 1, "`65536` is no port"),
    ],
)
def test_a_mistake_in_the_file_is_pointed_at(text, line, message, tmp_path):
    path = tmp_path / "externals.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        Externals.read(str(path))
    assert message in raised.value.message
    assert raised.value.location.line == line
    assert raised.value.hint


@pytest.mark.parametrize("text", ["", "[]", "a: [", "x"])
def test_what_maps_nothing_is_said(text, tmp_path):
    path = tmp_path / "externals.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"externals\.yaml"):
        Externals.read(str(path))
