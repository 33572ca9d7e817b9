"""Names told to a cluster's DNS by its ConfigMap (here one of the test's own): by several at once, beside others, and gone afterwards."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.clusters.kubernetes import dns_entries, leftovers
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.corefile import Entry
from harness.clusters.kubernetes.dns_entries import DnsEntries
from harness.clusters.kubernetes.leftovers import DNS_NAMES
from harness.errors import ClusterError
from tests.clusters.kubernetes.test_corefile import KIND

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]
STRIPE = Entry("api.stripe.com", ("198.18.0.1",), 30)
ELSEWHERE = Entry("api.stripe.com", ("198.18.0.2",), 30)


class Corefile:
    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.where = ("coredns", namespace)

    @property
    def text(self) -> str:
        return self.api.core.read_namespaced_config_map(*self.where).data["Corefile"]

    def write(self, text: str) -> None:
        self.api.core.patch_namespaced_config_map(*self.where, {"data": {"Corefile": text}})

    def names(self) -> dict[str, tuple[str, ...]]:
        return {each.name: each.runs for each in dns_entries.find(self.api, self.where)}

    def of(self, run: str) -> DnsEntries:
        return DnsEntries(self.api, run, self.where)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    core = Api.connect(CONTEXT).core
    name = f"names-{secrets.token_hex(4)}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture
def corefile(namespace) -> Iterator[Corefile]:
    corefile = Corefile(Api.connect(CONTEXT), namespace)
    corefile.api.core.create_namespaced_config_map(namespace, {"metadata": {"name": "coredns"}, "data": {"Corefile": KIND, "other": "x"}})
    yield corefile
    corefile.api.core.delete_namespaced_config_map(*corefile.where)


def test_many_at_once_lose_nothing_of_each_other_nor_of_a_stranger(corefile):
    def work(number: int) -> None:
        mine = corefile.of(f"run{number % 2}")
        for name in range(5):
            mine.tell([Entry(f"n{name}.w{number}.example", (f"192.0.2.{number}",), 5), STRIPE])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    every = {f"n{name}.w{number}.example": (f"run{number % 2}",) for number in range(4) for name in range(5)}
    assert corefile.names() == {**every, "api.stripe.com": ("run0", "run1")}
    corefile.write(corefile.text + "# a stranger's\n")
    dns_entries.forget(corefile.api, ["run0"], corefile.where)
    assert corefile.names() == {**{name: runs for name, runs in every.items() if runs == ("run1",)}, "api.stripe.com": ("run1",)}
    dns_entries.forget(corefile.api, ["run1"], corefile.where)
    assert corefile.text == KIND + "# a stranger's\n"
    assert corefile.api.core.read_namespaced_config_map(*corefile.where).data["other"] == "x"


def test_what_was_told_is_told_once_and_may_lead_elsewhere_for_a_later_case(corefile):
    mine = corefile.of("run")
    assert mine.tell([STRIPE])
    assert not mine.tell([STRIPE])
    assert mine.tell([ELSEWHERE])
    assert [each.addresses for each in dns_entries.find(corefile.api, corefile.where)] == [ELSEWHERE.addresses]


@pytest.mark.parametrize("other", ["run", "another"])
def test_a_name_that_leads_others_elsewhere_is_not_taken_from_them(other, corefile):
    corefile.of("run").tell([STRIPE])
    before = corefile.text
    with pytest.raises(ClusterError, match=r"`api\.stripe\.com` leads to 198\.18\.0\.1 .* run run"):
        corefile.of(other).tell([ELSEWHERE])
    assert corefile.text == before


def test_a_sweep_finds_the_names_of_each_run_and_takes_them_out(corefile, monkeypatch):
    monkeypatch.setattr(dns_entries, "COREDNS", corefile.where)
    corefile.of("dead").tell([STRIPE])
    corefile.of("living").tell([STRIPE])
    (found,) = leftovers.find(corefile.api, "dead").leftovers
    assert (found.kind, found.run) == (DNS_NAMES, "dead")
    assert "dead" in str(found)
    leftovers.remove(corefile.api, [found])
    assert leftovers.find(corefile.api, "dead").leftovers == ()
    assert corefile.names() == {"api.stripe.com": ("living",)}


def test_where_there_is_no_such_configuration_there_are_no_names_and_telling_is_an_error(namespace):
    api = Api.connect(CONTEXT)
    assert dns_entries.find(api, ("nothing", namespace)) == ()
    with pytest.raises(ClusterError, match=f"ConfigMap {namespace}/nothing"):
        DnsEntries(api, "run", ("nothing", namespace)).tell([STRIPE])


def test_a_name_that_does_not_come_to_be_known_is_an_error_in_time():
    with pytest.raises(ClusterError, match=r"`nothing\.harness\.invalid` to 192\.0\.2\.1 within 0\.2 s"):
        dns_entries.wait_known(Api.connect(CONTEXT), {"nothing.harness.invalid": frozenset({"192.0.2.1"})}, within=0.2)
