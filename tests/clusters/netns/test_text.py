"""The pure parts: addresses to ranges, policies to commands, what is said on the wire."""

from __future__ import annotations

import ipaddress
import itertools
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clusters.netns import addresses, ruleset, speech
from harness.clusters.netns.ruleset import Label
from harness.clusters.netns.wire import Decoder, Events, encode
from harness.model.flow import FiveTuple
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Direction, Family, Protocol, Request, RequestKind
from harness.model.verdict import Decision
from harness.policy.map import DirectionPolicy, Interval
from harness.probes.agent import Bound

PREFIXES = st.dictionaries(
    st.builds(
        lambda address, length: str(ipaddress.ip_network((address, length), strict=False)), st.integers(0, 2**32 - 1), st.integers(0, 32)
    ),
    st.integers(1, 5),
    max_size=12,
)


@given(PREFIXES, st.lists(st.integers(0, 2**32 - 1), max_size=8))
def test_disjoint_ranges_give_each_address_its_longest_prefix(prefixes: dict[str, int], more: list[int]) -> None:
    ranges = ruleset.disjoint(prefixes, 4)
    bounds = [(int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last)), identity) for first, last, identity in ranges]
    assert all(first <= last for first, last, _ in bounds)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(bounds)), "ranges overlap or are out of order"
    networks = [(ipaddress.ip_network(text), identity) for text, identity in prefixes.items()]
    edges = [edge for network, _ in networks for edge in (int(network[0]), int(network[-1]), int(network[0]) - 1, int(network[-1]) + 1)]
    for address in [edge for edge in edges if 0 <= edge < 2**32] + more:
        holding = [(network.prefixlen, identity) for network, identity in networks if ipaddress.ip_address(address) in network]
        wanted = max(holding)[1] if holding else None
        assert next((identity for first, last, identity in bounds if first <= address <= last), None) == wanted


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz")), st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz"))
)
def test_a_change_of_elements_writes_differences_and_nothing_else(before: dict[str, str], after: dict[str, str]) -> None:
    text = list(ruleset.change_elements("m", before, after))
    content = dict(before)
    for command in text:
        verb, _, listed = command.partition(" element ")
        for element in listed.partition("{")[2].strip(" }").split(", "):
            key, _, value = element.partition(" : ")
            if verb == "delete":
                assert content.pop(key) == value
            else:
                assert key not in content
                content[key] = value
    assert content == after
    assert (not text) == (before == after)


@pytest.mark.parametrize("label", [Label("egress", 133, new=True, revision=7), Label("forward", 0, new=False, revision=12345)])
def test_a_label_survives_the_kernel(label: Label) -> None:
    assert Label.parse(str(label)) == label


def test_exact_ports_ranges_types_and_whole_protocols_go_to_maps_of_their_own() -> None:
    allow = Decision.ALLOW
    policy = DirectionPolicy(
        enforced=True,
        default=Decision.DEFAULT_DENY,
        by_identity={
            300: (
                Interval(6, 80, 80, allow, ()),
                Interval(6, 90, 99, Decision.DENY_RULE, ()),
                Interval(17, 0, 65535, allow, ()),
                Interval(1, 8, 8, allow, ()),
                Interval(0, 0, 65535, allow, ()),
            )
        },
    )
    assert dict(ruleset.compiled(policy, Direction.INGRESS).maps) == {
        "port": (("300 . 6 . 80", allow),),
        "icmp": (("300 . 8", allow),),
        "range": (("300 . 6 . 90-99", Decision.DENY_RULE),),
        "protocol": (("300 . 17", allow),),
        "any": (("300", allow),),
    }


def test_equal_policies_compile_to_equal_content_whatever_their_rules_are_called() -> None:
    def policy(selecting: tuple[object, ...]) -> DirectionPolicy:
        return DirectionPolicy(True, Decision.DEFAULT_DENY, {300: (Interval(6, 80, 80, Decision.ALLOW, ()),)}, selecting)  # type: ignore[arg-type]  # any

    assert ruleset.compiled(policy(()), Direction.EGRESS) == ruleset.compiled(policy(("x",)), Direction.EGRESS)
    assert ruleset.compiled(policy(()), Direction.EGRESS) != ruleset.compiled(policy(()), Direction.INGRESS)


@pytest.mark.parametrize("slot", [0, 1, 300, addresses.MAX_PODS - 1])
def test_every_pods_addresses_lie_in_its_nodes_prefixes_and_in_no_others(slot: int) -> None:
    for index in range(addresses.MAX_NODES):
        for address, prefix in zip(addresses.pod(index, slot), addresses.pods_of(index), strict=True):
            assert ipaddress.ip_address(address) in ipaddress.ip_network(prefix)
            others = [each for other in range(addresses.MAX_NODES) if other != index for each in addresses.pods_of(other)]
            assert not any(ipaddress.ip_address(address) in ipaddress.ip_network(other) for other in others)


@pytest.mark.parametrize("name", ["", "j", "A", "node-a"])
def test_a_node_that_no_lab_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="called a to i"):
        addresses.node_index(name)


def probe(serve: str, request: Request | None = None, protocol: Protocol = Protocol.TCP) -> Probe:
    return Probe(1, Site("pod", "d/a"), protocol, Family.IPV4, "10.0.0.1", 80, "abc", 1.0, ("d/b",), serve=serve, request=request)


@pytest.mark.parametrize(
    ("serve", "request_", "protocol"),
    [
        ("auto", None, Protocol.TCP),
        ("http", None, Protocol.TCP),
        ("echo", None, Protocol.TCP),
        ("auto", None, Protocol.UDP),
        ("auto", Request(RequestKind.HTTP, method="HEAD", path="/x"), Protocol.TCP),
    ],
)
def test_what_a_client_says_a_server_understands_and_the_answer_names_it(serve: str, request_: Request | None, protocol: Protocol) -> None:
    said = speech.request(probe(serve, request_, protocol))
    http = protocol is Protocol.TCP and serve != "echo"
    for cut in range(len(said)):
        assert speech.heard(said[:cut], "d/b", http=http, raw=serve != "http") is None, "half a request is none"
    got = speech.heard(said, "d/b", http=http, raw=serve != "http")
    assert got is not None
    assert got.nonce == "abc"
    answer = speech.answered(got.answer)
    assert answer is not None
    assert (answer.server, answer.nonce) == ("d/b", "abc")
    assert answer.status == (200 if http else None)


def test_a_proxy_may_write_headers_in_its_own_case_and_name_no_server() -> None:
    lower = speech.answered(b"HTTP/1.1 200 OK\r\nx-harness-server: d/b\r\nx-harness-nonce: abc\r\n\r\n")
    assert lower == speech.Said("d/b", "abc", 200)
    assert speech.answered(b"HTTP/1.1 403 Forbidden\r\n\r\nAccess denied\r\n") == speech.Said("", "", 403)


def test_events_and_values_survive_the_control_socket_in_any_pieces() -> None:
    five = FiveTuple(Protocol.UDP, "fd00::1", 20000, "fd00::2", 53)
    events = (
        Bound(1, five, 17),
        ProbeResult(1, Ending.ANSWERED, 1, 2, five, "d/b", "abc", 200, True, "", 1),
        ProbeResult(2, Ending.ERROR, 1, 2, detail="no such place"),
    )
    data = encode(Events.of(events)) + encode(MappingProxyType({"a": 1}))
    decoder = Decoder()
    values = [value for start in range(0, len(data), 7) for value in decoder.feed(data[start : start + 7])]
    assert tuple(values[0].unpacked()) == events
    assert values[1] == {"a": 1}
