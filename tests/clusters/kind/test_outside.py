"""What is outside a kind cluster: one container that has the addresses and ports that cases ask for, and the nodes' way to it."""

from __future__ import annotations

import ipaddress
import textwrap
from functools import cache
from pathlib import Path

import pytest

from harness.cases.load import load_cases
from harness.clusters.kind import outside
from harness.clusters.kind.outside import Outside
from harness.clusters.kind.record import Records
from harness.clusters.kubernetes.corefile import Entry
from harness.clusters.kubernetes.externals import Externals, Mapped
from harness.errors import ProgramError

CASE = """
    case: outside
    endpoints: {client: {}}
    externals:
      internet: {addresses: [203.0.113.10], ports: [443]}
      partner: {ports: [8443]}
    phases:
      baseline: ["allow: client -> internet:443, partner:8443, world:80"]
"""
START = ["no-outside", "run-outside", "where-outside-is", "names-of-nodes"]
WAYS = ["in-a-container"] * 4


def case(tmp_path, text: str = CASE):
    path = tmp_path / "test_outside.yaml"
    path.write_text(textwrap.dedent(text).replace('["allow: ', '[{allow: "').replace('"]', '"}]'))
    return load_cases(path)[0]


@pytest.fixture
def beside(contract):  # noqa: ARG001 -- what it runs is there because this is
    return Outside("shop", "python:3.13-alpine", Records())


def test_addresses_ports_and_ways_are_made_once_and_told_as_what_the_user_would_map(beside, contract, tmp_path):
    contract.play(*START, *WAYS, "served", "served", "served")
    asked = case(tmp_path)
    externals = beside.externals(asked)
    assert {name: (each.addresses, sorted(each.ports)) for name, each in externals.mapped.items()} == {
        "internet": (("203.0.113.10",), [443]),
        "partner": (("172.18.0.5", "fc00:f853:ccd:e793::5"), [8443]),
        "world": (("172.18.0.5", "fc00:f853:ccd:e793::5"), [80]),
    }
    assert externals.lacking(asked) == ""
    assert externals.serves(asked)
    told = [" ".join(call["argv"][2:10]) for call in contract.calls if call["argv"][3:4] == ["ip"]]
    assert told == [
        "shop-outside ip -4 addr replace 203.0.113.10/32 dev lo",
        *(f"{node} ip -4 route replace 203.0.113.10/32 via 172.18.0.5" for node in ("shop-control-plane", "shop-worker", "shop-worker2")),
    ]
    assert contract.played
    contract.play()
    assert beside.externals(asked) == externals


def test_another_process_uses_the_container_that_is_there(beside, contract, tmp_path):
    contract.play("an-outside", *START[2:], *WAYS, "served", "served", "served")
    beside.externals(case(tmp_path))
    assert contract.played


def test_a_case_without_anything_outside_starts_nothing(beside, contract, tmp_path):
    contract.play()
    within = "case: inside\nendpoints: {client: {}, server: {ports: [80]}}\nphases: {baseline: [{allow: client -> server:80}]}"
    asked = case(tmp_path, within.replace("client -> server:80", '"client -> server:80"'))
    assert not beside.externals(asked).mapped


def test_what_cannot_be_started_says_why(beside, contract, tmp_path):
    contract.play("no-outside", "run-outside-fails")
    with pytest.raises(ProgramError, match="context deadline exceeded"):
        beside.externals(case(tmp_path))


SUITES = Path(__file__).parents[3] / "suites"


@cache
def shipped() -> list[tuple[str, Entry]]:
    """The names of the shipped cases, as a kind cluster's DNS would be told them: case and entry."""
    found = []
    for path in sorted(SUITES.rglob("test_*.yaml")):
        for each in load_cases(path):
            mapped = {name: Mapped(tuple(addresses), ports) for name, (addresses, ports) in outside.asked(each).items() if addresses}
            found += [(each.name, entry) for entry in outside.entries(each, Externals("kind", mapped))]
    return found


def test_no_name_of_a_shipped_case_leads_another_case_elsewhere():
    by_name: dict[str, set[tuple]] = {}
    for _, entry in shipped():
        by_name.setdefault(entry.name, set()).add((entry.addresses, entry.ttl))
    assert len(by_name) > 20
    assert {name: led for name, led in by_name.items() if len(led) > 1} == {}


def test_names_share_an_address_only_where_their_case_says_so():
    by_address: dict[tuple[str, str], set[str]] = {}
    for case_name, entry in shipped():
        for address in entry.addresses:
            by_address.setdefault((case_name, address), set()).add(entry.name)
    shared = {names for names in map(frozenset, by_address.values()) if len(names) > 1}
    assert frozenset({"assets.cdn.example", "tracker.cdn.example"}) in shared
    assert not any("api.stripe.com" in names and "api.paypal.com" in names for names in shared)


def test_what_has_names_gets_an_address_that_is_its_own_in_every_case(tmp_path):
    named = CASE.replace("partner: {ports: [8443]}", "partner: {names: [API.Partner.example, partner.example], ports: [8443], ttl: 86400}")
    asked = case(tmp_path, named.replace("partner:8443,", "api.partner.example:8443,"))
    addresses, _ = outside.asked(asked)["partner"]
    assert addresses == outside.own_addresses("api.partner.example") != outside.own_addresses("partner.example")
    assert [ipaddress.ip_address(each).version for each in addresses] == [4, 6]
    externals = Externals("kind", {"partner": Mapped(addresses, frozenset({8443}))})
    assert outside.entries(asked, externals) == (Entry("api.partner.example", tuple(sorted(addresses)), 65535),)


def test_it_goes_with_the_cluster(contract):
    contract.play("an-outside", "remove-outside")
    outside.remove("shop")
    assert contract.played
