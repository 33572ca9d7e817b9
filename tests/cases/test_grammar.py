from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.grammar import GrammarError, Sentence, SourceTerm, TargetTerm, parse_sentence
from harness.model.traffic import Protocol, Request, RequestKind

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
DNS_NAME = st.lists(st.from_regex(r"[a-z]([-a-z0-9]{0,6}[a-z0-9])?", fullmatch=True), min_size=2, max_size=4).map(".".join)
ADDRESS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
NAME = st.one_of(
    LABEL, ADDRESS, DNS_NAME, LABEL.map("service/{}".format), st.tuples(LABEL, LABEL).map(lambda two: "service/{}/{}".format(*two))
)
PORT = st.one_of(st.integers(1, 65535).map(str), LABEL.filter(lambda text: not text.isdigit()))
PROTOCOL = st.sampled_from((None, Protocol.TCP, Protocol.UDP, Protocol.SCTP))
TARGET = st.one_of(st.builds(TargetTerm, NAME, PORT, PROTOCOL), st.builds(TargetTerm, NAME))
PATH = st.from_regex(r"/[A-Za-z0-9_./?=&%,{}>-]{0,12}", fullmatch=True)
REQUEST = st.one_of(
    st.none(),
    st.builds(Request, st.just(RequestKind.HTTP), method=st.sampled_from(("GET", "POST", "DELETE", "PURGE")), path=PATH),
    st.builds(Request, st.just(RequestKind.GRPC), path=st.from_regex(r"/[a-z.]{1,8}[A-Za-z]{1,8}/[A-Za-z]{1,8}", fullmatch=True)),
    st.builds(Request, st.sampled_from((RequestKind.TLS, RequestKind.LOOKUP)), name=DNS_NAME),
    st.sampled_from((Request(RequestKind.ICMP), Request(RequestKind.ICMP6))),
)
SENTENCE = st.builds(
    Sentence,
    st.lists(st.builds(SourceTerm, NAME), min_size=1, max_size=4).map(tuple),
    st.lists(TARGET, min_size=1, max_size=4).map(tuple),
    REQUEST,
)


def _reserved(sentence: Sentence) -> bool:
    return sentence.targets[0].name in {"grpc", "tls", "lookup", "icmp", "icmp6"}


@given(SENTENCE)
def test_printing_then_parsing_is_the_identity(sentence: Sentence):
    if not _reserved(sentence):
        assert parse_sentence(str(sentence)) == sentence


@given(SENTENCE, st.sampled_from((" ", "  ", "\n  ")))
def test_blanks_around_words_do_not_matter(sentence: Sentence, blank: str):
    if not _reserved(sentence):
        text = f"{blank}{', '.join(map(str, sentence.sources))}{blank}->{blank}{f',{blank}'.join(map(str, sentence.targets))}"
        text += f"{blank}{sentence.request}{blank}" if sentence.request else blank
        assert parse_sentence(text) == sentence


@given(st.text(st.sampled_from("ab,->:/ 0189[].*\tGET\"'"), max_size=30))
def test_any_text_parses_or_is_refused_at_a_place_inside_it(text: str):
    sentence, error = _parsed(text)
    if error is not None:
        assert 0 <= error.start <= len(text)
        assert error.length >= 1
    else:
        assert sentence is not None
        assert parse_sentence(str(sentence)) == sentence


def _parsed(text: str) -> tuple[Sentence | None, GrammarError | None]:
    try:
        return parse_sentence(text), None
    except GrammarError as error:
        return None, error


@given(SENTENCE)
def test_every_span_covers_the_words_it_is_for(sentence: Sentence):
    if _reserved(sentence):
        return
    text = str(sentence)
    parsed = parse_sentence(text)
    for source in parsed.sources:
        assert text[source.span.start : source.span.start + source.span.length] == source.name
    for target in parsed.targets:
        assert text[target.span.start : target.span.start + target.span.length] == str(target)
        if target.port:
            at = target.port_span
            assert text[at.start : at.start + at.length].startswith(target.port)


@pytest.mark.parametrize(
    ("text", "sources", "targets", "request_"),
    [
        ("a->b:80", ["a"], ["b:80"], None),
        ("a, b -> c:80, d:dns/UDP", ["a", "b"], ["c:80", "d:dns/UDP"], None),
        ("* -> any:80", ["any"], ["any:80"], None),
        ("a -> 203.0.113.9:443", ["a"], ["203.0.113.9:443"], None),
        ("a -> [2001:db8::1]:443", ["a"], ["[2001:db8::1]:443"], None),
        ("2001:db8::7 -> b:80", ["2001:db8::7"], ["b:80"], None),
        ("[2001:db8::7] -> b:80", ["2001:db8::7"], ["b:80"], None),
        ("a -> api.example.com:443", ["a"], ["api.example.com:443"], None),
        ("a -> service/web:80, service/shop/web:81", ["a"], ["service/web:80", "service/shop/web:81"], None),
        ("a -> b:80 GET /x,y?z=->1", ["a"], ["b:80"], "GET /x,y?z=->1"),
        ("a -> b:80 grpc /pkg.Users/List", ["a"], ["b:80"], "grpc /pkg.Users/List"),
        ("a -> b:443 tls api.example.com", ["a"], ["b:443"], "tls api.example.com"),
        ("a -> kube-dns lookup api.example.com", ["a"], ["kube-dns"], "lookup api.example.com"),
        ("a -> b icmp", ["a"], ["b"], "icmp"),
        ("a -> b icmp6", ["a"], ["b"], "icmp6"),
    ],
)
def test_the_grammar(text: str, sources: list[str], targets: list[str], request_: str | None):
    sentence = parse_sentence(text)
    assert [str(each) for each in sentence.sources] == sources
    assert [str(each) for each in sentence.targets] == targets
    assert (str(sentence.request) if sentence.request else None) == request_


@pytest.mark.parametrize(
    ("text", "wrong", "message", "hint"),
    [
        ("", "", "the expectation is empty", "as in `client -> server:8080`"),
        ("a b:80", "", "`->` is missing between sources and targets", "as in `client -> server:8080`"),
        ("a => b:80", "=>", "`=>` is no arrow", "write `->` between sources and targets"),
        ("a → b:80", "→", "`→` is no arrow", "write `->` between sources and targets"),
        ("-> b:80", "->", "there is no source before `->`", "name endpoints, or `any`"),
        ("a, -> b:80", ",", "a source is missing after the last comma", None),
        (", a -> b:80", ",", "a source is missing before this comma", None),
        ("a b -> c:80", "b", "expected `,` or `->` before `b`", "sources are separated by commas"),
        ("a:80 -> b:80", ":80", "a source has no port", "write `a`; only targets carry ports"),
        ("a ->", "->", "there is no target after `->`", "as in `client -> server:8080`"),
        ("a -> b:80,", ",", "a target is missing after the last comma", None),
        ("a -> , b:80", ",", "a target is missing before this comma", None),
        ("a -> GET /", "GET", "there is no target before `GET`", None),
        ("a -> b:80 -> c:80", "->", "a second `->`", "an expectation has one; write two of them"),
        ("a -> b:80, -> c:80", "->", "a second `->`", "an expectation has one; write two of them"),
        ("a -> b:80 c:80", "c:80", "expected `,` or a request before `c:80`", "targets are separated by commas"),
        ("a -> b:", ":", "a port is missing after `:`", "a number, or the name of a declared port"),
        ("a -> b:0", "0", "0 is no port: 1 to 65535", None),
        ("a -> b:65536", "65536", "65536 is no port: 1 to 65535", None),
        ("a -> b:080", "080", "`080` is no port number", "write 80"),
        ("a -> b:8O80", "8O80", "`8O80` is no port", "a number, or the name of a declared port"),
        ("a -> b:80/udp", "udp", "`udp` is no protocol of ports", "did you mean `UDP`?"),
        ("a -> b:80/ICMP", "ICMP", "`ICMP` is no protocol of ports", "TCP, UDP or SCTP; ping is a request: `client -> server icmp`"),
        ("a -> b:80:90", "b:80:90", "`b:80:90` has more than one `:`", "as in `server:8080`"),
        ("a -> :80", ":80", "a target is missing before `:`", None),
        (
            "a -> 2001:db8::1:443",
            "2001:db8::1:443",
            "where does the address end and the port begin in `2001:db8::1:443`?",
            "the address in brackets: [2001:db8::1]:443 or [2001:db8::1:443]:PORT",
        ),
        ("a -> [b]:80", "[b]:80", "`[b]:80` is no address", "an IPv6 address stands in brackets: [2001:db8::1]:443"),
        ("a -> b:80 get /x", "get", "`get` is no HTTP method", "did you mean `GET`?"),
        ("a -> b:80 /x", "/x", "a request begins with its method", "as in `GET /x`"),
        ("a -> b:80 GET", "GET", "a path is missing after `GET`", "as in `GET /`"),
        ("a -> b:80 GET x", "x", "a path begins with `/`, not `x`", "the host goes into the long form: `http: {host: ...}`"),
        (
            "a -> b:80 GET /x y",
            "y",
            "nothing may follow the path",
            "write a blank in a path as %20; two targets are separated by a comma before the request",
        ),
        ("a -> b:80 lokup x.y", "lokup", "`lokup` is no request", "did you mean `lookup`?"),
        ("a -> b:80 lookup localhost", "localhost", "`localhost` is no DNS name with a dot", "as in `lookup api.example.com`"),
        ("a -> b:443 tls", "tls", "something is missing after `tls`", "as in `tls api.example.com`"),
        ("a -> b:80 grpc Users/List", "Users/List", "`Users/List` is no gRPC method", "as in `grpc /pkg.Service/Method`"),
        ("a -> b icmp 8", "8", "nothing may follow `icmp`", None),
    ],
)
def test_a_wrong_text_is_refused_where_it_is_wrong(text: str, wrong: str, message: str, hint: str | None):
    with pytest.raises(GrammarError) as caught:
        parse_sentence(text)
    error = caught.value
    assert error.message == message
    assert text[error.start : error.start + error.length] == wrong
    if hint is not None:
        assert error.hint == hint


def test_an_ipv6_address_is_printed_in_brackets():
    address = str(ipaddress.ip_address("2001:db8::1"))
    assert str(TargetTerm(address, "443")) == "[2001:db8::1]:443"
