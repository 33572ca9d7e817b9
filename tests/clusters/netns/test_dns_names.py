"""DNS messages and what is learned of them, without a lab."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.clusters.netns.dns import message
from harness.clusters.netns.dns.learned import Learned
from harness.clusters.netns.dns.message import Answer
from harness.clusters.netns.dns.zone import zone
from harness.model.cluster import ClusterState, ExternalHost, Pod, Service
from harness.model.traffic import Family, PodRef

NAMES = {"www.example.com": Answer(("203.0.113.10", "2001:db8::10"), 30)}


def test_a_resolver_answers_the_family_that_was_asked_for_and_brings_the_nonce_back() -> None:
    for family, address in ((Family.IPV4, "203.0.113.10"), (Family.IPV6, "2001:db8::10")):
        asked = message.question("WWW.example.com", family, "nonce-1")
        found = message.resolved(asked, NAMES.get, "kube-system/coredns")
        assert found is not None
        nonce, data = found
        assert nonce == "nonce-1"
        assert message.said(data) == ("kube-system/coredns", "nonce-1", 0)
        read = message.read(data)
        assert read is not None
        assert (read.addresses, read.ttl, read.response) == ((address,), 30, True)


def test_a_refusal_names_no_server() -> None:
    asked = message.question("www.example.com", Family.IPV4, "nonce-1")
    assert message.said(message.refused(asked)) == ("", "", 5)
    assert message.said(asked) is None, "a question answers nothing"


@given(st.binary(max_size=200))
def test_nothing_that_is_said_breaks_a_reader(data: bytes) -> None:
    message.read(data)
    message.said(data)
    message.resolved(data, NAMES.get, "server")
    message.unframed(data)


@given(st.integers(0, 120), st.integers(0, 13))
def test_a_question_with_a_byte_changed_breaks_no_reader(place: int, bit: int) -> None:
    asked = bytearray(message.question("www.example.com", Family.IPV4, "nonce-1"))
    asked[place % len(asked)] ^= 1 << bit % 8
    message.read(bytes(asked))
    if message.read(bytes(asked)) is not None:
        message.refused(bytes(asked))
    message.resolved(bytes(asked), NAMES.get, "server")


@given(st.lists(st.binary(max_size=50)), st.integers(1, 7))
def test_messages_over_tcp_come_whole_however_they_are_cut(messages: list[bytes], size: int) -> None:
    stream = b"".join(map(message.framed, messages))
    found, buffer = [], b""
    for start in range(0, len(stream), size):
        buffer += stream[start : start + size]
        while True:
            whole, buffer = message.unframed(buffer)
            if whole is None:
                break
            found.append(whole)
    assert (found, buffer) == (messages, b"")


def test_names_hold_until_their_time_and_on_their_node_only() -> None:
    learned = Learned()
    learned.learn("a", "www.Example.com.", ["203.0.113.10"], 30.0)
    learned.learn("a", "www.example.com", ["203.0.113.11"], 60.0)
    learned.learn("a", "www.example.com", ["203.0.113.11"], 40.0)
    learned.learn("a", "other.example.com", ["203.0.113.10"], 90.0)
    named = {"203.0.113.10": {"www.example.com"}, "203.0.113.11": {"www.example.com"}}
    assert learned.of("a", lambda name: name.startswith("www")) == named
    assert learned.of("b", lambda _: True) == {}
    assert (learned.next_end(), learned.forget(30.0)) == (30.0, frozenset("a"))
    assert learned.of("a", lambda name: name.startswith("www")) == {"203.0.113.11": {"www.example.com"}}
    assert (learned.forget(59.0), learned.forget(90.0), learned.next_end()) == (frozenset(), frozenset("a"), None)


def test_an_answer_is_good_for_as_long_as_the_external_says() -> None:
    said = (ExternalHost("brief", "203.0.113.10", ("Brief.example.",), ttl=2), ExternalHost("www", "203.0.113.11", ("www.example",)))
    known = zone(ClusterState({}, (), said), {})
    assert [answer.ttl for name in ("brief.example", "www.example") if (answer := known(name)) is not None] == [2, 30]


def test_the_resolver_answers_for_services_pods_and_what_is_outside() -> None:
    pods = tuple(Pod(PodRef("shop", name), {"app": "web"}, "a") for name in ("web-1", "web-2"))
    services = (Service("shop", "web", {"app": "web"}, ()), Service("shop", "each", {"app": "web"}, (), headless=True))
    state = ClusterState({"shop": {}}, pods, (ExternalHost("www", "203.0.113.10", ("www.Example.com",)),), services)
    addresses = {
        "service:shop/web": ("10.96.0.1", "fd00:96::1"),
        "pod:shop/web-1": ("10.0.0.1", "fd00::1"),
        "pod:shop/web-2": ("10.0.0.2", "fd00::2"),
    }
    known = zone(state, addresses)

    def answered(name: str) -> tuple[str, ...] | None:
        answer = known(name)
        return None if answer is None else answer.addresses

    assert answered("www.example.com") == ("203.0.113.10",)
    assert answered("web.shop.svc.cluster.local") == ("10.96.0.1", "fd00:96::1")
    assert answered("each.shop.svc.cluster.local") == ("10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2")
    # As CoreDNS does by default (`pods insecure`): whatever address the name says, in a namespace that there is.
    assert answered("10-0-0-1.shop.pod.cluster.local") == ("10.0.0.1",)
    assert answered("192-0-2-77.shop.pod.cluster.local") == ("192.0.2.77",)
    assert answered("fd00--1.shop.pod.cluster.local") == ("fd00::1",)
    assert answered("10-0-0-1.bank.pod.cluster.local") is None
    assert answered("10-0-0-1.shop.svc.cluster.local") is None
    for nonsense in (
        "10-0-0.shop.pod.cluster.local",
        "10-0-0-999.shop.pod.cluster.local",
        "shop.pod.cluster.local",
        "pod.cluster.local",
        "",
    ):
        assert answered(nonsense) is None
