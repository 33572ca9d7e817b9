"""Names of ours in a Corefile: added, found again, and gone to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clusters.kubernetes.corefile import Entry, entries, with_entries

KIND = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
"""
NAME = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){1,3}", fullmatch=True)
ENTRY = st.builds(
    Entry,
    NAME,
    st.lists(st.ip_addresses().map(str), min_size=1, max_size=3, unique=True).map(tuple),
    st.integers(0, 65535),
    st.lists(st.text("bcdfgh", min_size=6, max_size=6), min_size=1, max_size=3, unique=True).map(tuple),
    st.integers(0, 2**33),
)
ENTRIES = st.lists(ENTRY, max_size=4, unique_by=lambda each: each.name)
TEXT = st.text(max_size=80) | st.just(KIND) | st.just(KIND.rstrip("\n")) | st.just("")


@given(TEXT, ENTRIES)
def test_what_was_added_is_found_and_what_is_removed_was_never_there(text, wanted):
    added = with_entries(text, wanted)
    assert entries(added) == tuple(sorted(wanted))
    assert with_entries(added, ()) == text


@given(TEXT, ENTRIES, ENTRIES, TEXT)
def test_the_last_word_counts_and_what_others_write_around_it_stays(text, first, second, later):
    added = with_entries(text, first)
    assert with_entries(added, first) == added
    changed = with_entries(added + later if first else added, second)
    assert entries(changed) == tuple(sorted(second))
    assert with_entries(changed, ()) == (text + later if first else text)


def test_each_name_is_a_server_of_its_own():
    wanted = [
        Entry("api.stripe.com", ("198.18.0.1", "2001:db8::1"), 30, ("k7x2qd",), 1),
        Entry("www.example.org", ("203.0.113.10",), 5, ("k7x2qd",), 1),
    ]
    added = with_entries(KIND, wanted)
    assert added.startswith(KIND)
    assert (
        added.removeprefix(KIND)
        == """
# policy-harness: begin. Names of test runs; goes when they end, or by `harness sweep`
# policy-harness: {"name": "api.stripe.com", "addresses": ["198.18.0.1", "2001:db8::1"], "ttl": 30, "runs": ["k7x2qd"], "since": 1}
api.stripe.com:53 {
    reload 2s 1s
    hosts /dev/null {
        198.18.0.1 api.stripe.com
        2001:db8::1 api.stripe.com
        ttl 30
    }
}
# policy-harness: {"name": "www.example.org", "addresses": ["203.0.113.10"], "ttl": 5, "runs": ["k7x2qd"], "since": 1}
www.example.org:53 {
    reload 2s 1s
    hosts /dev/null {
        203.0.113.10 www.example.org
        ttl 5
    }
}
# policy-harness: end
"""
    )


@pytest.mark.parametrize("spoilt", ['{"name": "a.b"', "[]", '{"name": "a.b", "addresses": 7, "ttl": 1, "runs": []}', "{}"])
def test_a_line_that_somebody_spoilt_is_no_name_and_goes_with_the_next_change(spoilt):
    added = with_entries(KIND, [Entry("a.example", ("192.0.2.1",), 5, ("k7x2qd",))])
    lines = [f"# policy-harness: {spoilt}" if '"a.example"' in line else line for line in added.split("\n")]
    assert entries("\n".join(lines)) == ()
    assert with_entries("\n".join(lines), ()) == KIND
