"""What names mean inside a lab. Pure."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.cases.case import Case, Placement
from harness.cases.load import load_cases
from harness.cases.state import cluster_state
from harness.errors import UsageError
from harness.lab.places import DNS_SERVICE, Places
from tests.lab.conftest import CASE

ADDRESSES = {
    "pod:shop/frontend": ("10.0.0.1", "fd00::1"),
    "pod:dev/intruder": ("10.0.0.2",),
    "pod:shop/backend-0": ("10.0.0.3",),
    "pod:shop/backend-1": ("10.0.0.4",),
    "service:shop/web": ("10.96.0.1",),
    "external:stripe": ("198.51.100.1",),
    "node:a": ("10.78.0.1",),
    "world": ("203.0.113.10",),
}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    file = tmp_path / "test_shop.yaml"
    file.write_text(CASE)
    return load_cases(file)[0]


def names(places: Places, place: str) -> dict[str, list[str]]:
    rows = [line.split() for line in places.hosts(places.find(place)).splitlines() if not line.startswith("#")]
    return {address: known for address, *known in rows}


def test_a_place_is_found_by_every_name_people_use(case: Case) -> None:
    places = Places(case, Placement(cluster_state(case), ADDRESSES))
    for name, found in (
        ("frontend", "shop/frontend"),
        ("shop/frontend", "shop/frontend"),
        ("intruder", "dev/intruder"),
        ("backend", "shop/backend-0"),
        ("backend[1]", "shop/backend-1"),
        ("backend-1", "shop/backend-1"),
        ("shop/backend-1", "shop/backend-1"),
        ("node/b", "node/b"),
        ("world", "world"),
    ):
        assert places.find(name).name == found
    assert places.find("backend").lab_name == "pod shop/backend-0"
    assert places.find("backend").hostname == "backend-0"
    with pytest.raises(UsageError, match="there is no `node/z`"):
        places.find("node/z")


def test_a_pod_on_its_nodes_network_is_entered_there(case: Case) -> None:
    host = replace(case.endpoints["frontend"], host_network=True, node="b")
    case = replace(case, endpoints={**case.endpoints, "frontend": host})
    assert Places(case, Placement(cluster_state(case), ADDRESSES)).find("frontend").lab_name == "node b"


def test_names_resolve_as_in_the_namespace_of_the_pod(case: Case) -> None:
    places = Places(case, Placement(cluster_state(case), ADDRESSES))
    near, far = names(places, "frontend"), names(places, "intruder")
    assert near["10.96.0.1"] == ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]
    assert far["10.96.0.1"] == ["web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]
    assert "backend-0" in near["10.0.0.3"]
    assert "backend-0" not in far["10.0.0.3"]
    assert near["198.51.100.1"] == ["stripe", "api.stripe.com"]
    assert "nameserver 127.0.0.1" in places.resolv_conf(places.find("frontend"))


def test_a_service_goes_before_a_pod_of_its_name(case: Case) -> None:
    service = replace(case.services["shop/web"], name="frontend")
    case = replace(case, services={"shop/frontend": service})
    found = names(Places(case, Placement(cluster_state(case), {**ADDRESSES, "service:shop/frontend": ("10.96.0.9",)})), "frontend")
    assert "frontend" in found["10.96.0.9"]
    assert "frontend.shop.pod" in found["10.0.0.1"]
    assert "frontend.shop" not in found["10.0.0.1"]


def test_a_headless_service_is_its_pods(case: Case) -> None:
    case = replace(case, services={"shop/web": replace(case.services["shop/web"], headless=True)})
    without = {key: value for key, value in ADDRESSES.items() if not key.startswith("service:")}
    found = names(Places(case, Placement(cluster_state(case), without)), "frontend")
    assert "web" in found["10.0.0.3"]
    assert "web" in found["10.0.0.4"]


def test_a_lab_with_dns_leaves_services_and_outside_to_it(case: Case) -> None:
    places = Places(case, Placement(cluster_state(case), {**ADDRESSES, DNS_SERVICE: ("10.96.0.10",)}))
    found = names(places, "frontend")
    assert "10.96.0.1" not in found
    assert "198.51.100.1" not in found
    assert "backend-0" in found["10.0.0.3"]
    resolv = places.resolv_conf(places.find("intruder"))
    assert resolv.startswith("nameserver 10.96.0.10\nsearch dev.svc.cluster.local svc.cluster.local cluster.local\n")
