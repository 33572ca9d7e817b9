"""Lookups by the program inside the pods: over loopback against servers made of dnslib, and its messages against dnslib's."""

from __future__ import annotations

import json
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from dnslib import CNAME, QTYPE, RR, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from harness.clusters.kubernetes import agent_dns
from harness.clusters.netns.dns import message
from harness.model.traffic import Family
from tests.clusters.kubernetes.test_agent import Pod

NAME = "api.stripe.example"
FOUND = {"A": ["203.0.113.10", "203.0.113.20"], "AAAA": ["2001:db8::10"]}
Said = Callable[[DNSRecord], list[bytes]]


def found(question: DNSRecord) -> list[bytes]:
    """As a resolver does: by way of an alias, and in its own spelling."""
    reply = question.reply()
    kind = QTYPE[question.q.qtype]
    reply.add_answer(RR(question.q.qname, QTYPE.CNAME, rdata=CNAME("edge.example"), ttl=5))
    reply.add_answer(*RR.fromZone("\n".join(f"edge.example. 5 {kind} {address}" for address in FOUND[kind])))
    return [reply.pack()]


def code(number: int) -> Said:
    def say(question: DNSRecord) -> list[bytes]:
        reply = question.reply()
        reply.header.rcode = number
        return [reply.pack()]

    return say


def cut(question: DNSRecord) -> list[bytes]:
    reply = question.reply()
    reply.header.tc = 1
    return [reply.pack()]


def after_garbage(question: DNSRecord) -> list[bytes]:
    """A stranger's words, an answer to another question, one to another id, one that is cut in the middle; then the answer."""
    (right,) = found(question)
    other = DNSRecord.question("other.example").reply()
    other.header.id = question.header.id
    late = question.reply()
    late.header.id ^= 1
    return [b"", b"\xff" * 40, other.pack(), late.pack(), question.pack(), right[:-3], right]


def garbage(question: DNSRecord) -> list[bytes]:
    return after_garbage(question)[:-1]


def silent(_: DNSRecord) -> list[bytes]:
    return []


@contextmanager
def serving(say: Said, protocol: str) -> Iterator[int]:
    class Udp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for each in say(DNSRecord.parse(self.request[0])):
                self.request[1].sendto(each, self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (size,) = struct.unpack("!H", self.rfile.read(2))
            for each in say(DNSRecord.parse(self.rfile.read(size))):
                framed = struct.pack("!H", len(each)) + each
                self.wfile.write(framed[:1])
                self.wfile.write(framed[1:])

    server = (
        socketserver.ThreadingUDPServer(("127.0.0.1", 0), Udp)
        if protocol == "UDP"
        else socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tcp)
    )
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def ask(pod: Pod, port: int, protocol: str, family: str = "ipv4", *, timeout: float = 5.0, marked: bool = False) -> tuple[dict, dict]:
    """What the client tells of a lookup: that it is bound, and the result."""
    probe = {"id": 7, "protocol": protocol, "address": "127.0.0.1", "port": port, "nonce": "abc", "timeout": timeout}
    wanted = {"name": NAME, "family": family, "marked": marked}
    pod.say("plan " + json.dumps([{**probe, "source": "", "from": 0, "http": None, "lookup": wanted}]))
    return pod.hear(), pod.hear()


@pytest.fixture(scope="module")
def look_up() -> Iterator[Callable[..., tuple[dict, dict]]]:
    pod = Pod("echo", "UDP")
    pod.hear()
    yield partial(ask, pod)
    pod.end()


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
@pytest.mark.parametrize(("family", "kind"), [("ipv4", "A"), ("ipv6", "AAAA")])
def test_the_addresses_of_a_name_are_told_and_the_socket_before(protocol, family, kind, look_up):
    with serving(found, protocol) as port:
        bound, result = look_up(port, protocol, family)
    assert bound["five"][0] == protocol
    assert bound["five"][3:] == ["127.0.0.1", port]
    assert (result["ending"], result["status"], result["addresses"], result["five"]) == ("answered", 0, FOUND[kind], bound["five"])


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
@pytest.mark.parametrize(("number", "name"), [(3, "no such name"), (2, "server failure"), (5, "refused")])
def test_what_is_no_address_is_an_answer_with_its_code(protocol, number, name, look_up):
    with serving(code(number), protocol) as port:
        _, result = look_up(port, protocol)
    assert (result["ending"], result["status"], result["addresses"]) == ("answered", number, []), name


def test_an_answer_that_was_cut_says_so(look_up):
    with serving(cut, "UDP") as port:
        _, result = look_up(port, "UDP")
    assert (result["ending"], result["status"]) == ("answered", 0)
    assert "over TCP" in result["detail"]


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_what_is_no_answer_to_the_question_is_waited_beyond(protocol, look_up):
    with serving(after_garbage, protocol) as port:
        _, result = look_up(port, protocol)
    assert (result["ending"], result["addresses"]) == ("answered", FOUND["A"])


def test_nothing_but_garbage_is_a_time_out_that_says_so(look_up):
    with serving(garbage, "UDP") as port:
        _, result = look_up(port, "UDP", timeout=0.3)
    assert (result["ending"], result["detail"]) == ("timeout", "what came was no answer to the question")


def test_silence_is_a_time_out_over_udp_and_a_reset_over_tcp_where_the_server_hangs_up(look_up):
    with serving(silent, "UDP") as port:
        assert look_up(port, "UDP", timeout=0.1)[1]["ending"] == "timeout"
    with serving(silent, "TCP") as port:
        assert look_up(port, "TCP")[1]["ending"] == "reset"


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_a_port_of_a_pod_that_serves_dns_knows_no_name_and_says_who_it_is(protocol):
    pod = Pod("dns", protocol)
    pod.hear()
    _, result = ask(pod, pod.port, protocol, marked=True)
    pod.say("seen 7 abc")
    saw = pod.hear()["saw"]
    pod.end()
    assert (result["ending"], result["status"], result["server"], result["nonce"], saw) == ("answered", 3, "shop/web", "abc", True)


# The messages


LABEL = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-_", min_size=1, max_size=63)
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) < 250)
FAMILIES = st.sampled_from(list(Family))


@given(NAMES, FAMILIES, st.text("0123456789abcdef", min_size=1), st.booleans())
def test_a_question_is_as_dnslib_reads_it_and_as_the_lab_asks_it(name, family, nonce, marked):
    record = DNSRecord.parse(agent_dns.question(name, family.value, nonce, marked))
    theirs = DNSRecord.parse(message.question(name, family, nonce))
    assert (record.header.id, record.header.rd, record.header.qr) == (theirs.header.id, 1, 0)
    assert (str(record.q.qname), record.q.qtype) == (str(theirs.q.qname), theirs.q.qtype)
    assert [each.data for each in record.ar[0].rdata] == ([nonce.encode()] if marked else [])


@given(NAMES, FAMILIES, st.text("0123456789abcdef", min_size=1))
def test_a_server_of_ours_in_the_lab_and_one_in_a_pod_understand_each_others_clients(name, family, nonce):
    asked = agent_dns.question(name, family.value, nonce, marked=True)
    address = "192.0.2.1" if family is Family.IPV4 else "2001:db8::1"
    heard, answer = message.resolved(asked, lambda _: message.Answer((address,), 30), "shop/dns")
    assert heard == nonce
    assert agent_dns.said(answer, asked) == {"rcode": 0, "addresses": [address], "cut": False, "server": "shop/dns", "nonce": nonce}
    heard, answer = agent_dns.reply(message.question(name, family, nonce), "shop/dns")
    assert (heard, message.said(answer)) == (nonce, ("shop/dns", nonce, 3))
    assert agent_dns.said(answer, asked)["server"] == "shop/dns"


ASKED = agent_dns.question(NAME, "ipv4", "abc", marked=False)
ANSWER = found(DNSRecord.parse(ASKED))[0]


@given(
    st.binary(max_size=120)
    | st.tuples(st.integers(0, len(ANSWER) - 1), st.integers(0, 255)).map(lambda at: ANSWER[: at[0]] + bytes([at[1]]) + ANSWER[at[0] + 1 :])
)
def test_no_bytes_break_it(data):
    said = agent_dns.said(data, ASKED)
    assert said is None or set(said["addresses"]) <= {
        f"{a}.{b}.{c}.{d}" for a, b, c, d in [map(int, x.split(".")) for x in said["addresses"]]
    }
    agent_dns.reply(data, "shop/dns")


@given(st.integers(0, len(ANSWER) - 1))
def test_a_part_of_an_answer_is_none(length):
    assert agent_dns.said(ANSWER[:length], ASKED) is None


@given(st.lists(st.binary(max_size=50), max_size=4), st.binary(max_size=1))
def test_messages_over_tcp_come_apart_as_they_were_put_together(messages, rest):
    buffer = b"".join(map(agent_dns.framed, messages)) + rest
    out = []
    while (got := agent_dns.unframed(buffer))[0] is not None:
        out.append(got[0])
        buffer = got[1]
    assert (out, buffer) == (messages, rest)
