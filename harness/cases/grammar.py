"""The text of an expectation: `sources -> targets [request]`. Words and where they stand; what they name is `names`.

expectation = sources "->" targets [request]          lists with commas; every target carries its own port
target      = name [":" port ["/" protocol]] | address ":" port | "[" ipv6 "]:" port | dns.name ":" port
request     = METHOD /path | "grpc" /pkg.Service/Method | "tls" server.name | "lookup" dns.name | "icmp" | "icmp6"
"""

from __future__ import annotations

import re

from msgspec import Struct

from harness.cases.hosts import is_address, is_dns_name, no_dns_name
from harness.cases.suggest import closest
from harness.model.traffic import Protocol, Request, RequestKind

ANY = "any"
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_WORDS = ("grpc", "tls", "lookup", "icmp", "icmp6")
_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


class GrammarError(Exception):
    """The text is no expectation. `start` and `length` say which part of it is wrong. Turned into a CaseError by who knows the file."""

    def __init__(self, message: str, start: int, length: int = 1, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.start = start
        self.length = max(1, length)
        self.hint = hint


class Span(Struct, frozen=True, eq=False):
    """A part of the text. Equal to every other: two sentences are equal if they say the same, wherever they say it."""

    start: int
    length: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Span)

    def __hash__(self) -> int:
        return hash(Span)


_NOWHERE = Span(0, 1)


class SourceTerm(Struct, frozen=True):
    """A source as named: an endpoint, an external, a built-in, `any` or an IP literal."""

    name: str
    span: Span = _NOWHERE

    def __str__(self) -> str:
        return self.name


class TargetTerm(Struct, frozen=True):
    """A target as named, with its port as written (number, name, or None) and its protocol (None: not said)."""

    name: str
    port: str | None = None
    protocol: Protocol | None = None
    span: Span = _NOWHERE

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        if self.port is None:
            return name
        return f"{name}:{self.port}" + (f"/{self.protocol}" if self.protocol else "")

    @property
    def port_span(self) -> Span:
        """Where the port stands."""
        if self.port is None:
            return self.span
        tail = len(self.port) + (len(self.protocol) + 1 if self.protocol else 0)
        return Span(self.span.start + self.span.length - tail, tail)


class Sentence(Struct, frozen=True):
    """A parsed expectation. `str` prints it so that parsing gives an equal one."""

    sources: tuple[SourceTerm, ...]
    targets: tuple[TargetTerm, ...]
    request: Request | None = None
    request_span: Span = _NOWHERE

    def __str__(self) -> str:
        text = f"{', '.join(map(str, self.sources))} -> {', '.join(map(str, self.targets))}"
        return f"{text} {self.request}" if self.request else text


_TOKEN = re.compile(r"\s*(?P<word>->|,|\[[^\]\s]*\](?:(?!->)[^\s,])*|(?:(?!->)[^\s,])+)")
_ARROW = re.compile(r"=+>|→|⇒|--+>|<-+>?|~>|»|>")


class _Token(Struct, frozen=True):
    text: str
    start: int

    @property
    def span(self) -> Span:
        return Span(self.start, len(self.text))


def parse_sentence(text: str) -> Sentence:
    """The sentence that the text says. Raises GrammarError at the part that is wrong."""
    arrow = text.find("->")
    if arrow < 0:
        raise _no_arrow(text)
    wrong = _ARROW.search(text[:arrow])
    if wrong:
        raise GrammarError(f"`{wrong[0]}` is no arrow", wrong.start(), len(wrong[0]), "write `->` between sources and targets")
    sources = tuple(_sources(text, arrow))
    targets, rest = _targets(text, arrow + 2)
    request = _request(text, rest) if rest is not None else None
    span = Span(rest, len(text.rstrip()) - rest) if rest is not None else _NOWHERE
    return Sentence(sources, targets, request, span)


def _no_arrow(text: str) -> GrammarError:
    wrong = _ARROW.search(text)
    if wrong:
        return GrammarError(f"`{wrong[0]}` is no arrow", wrong.start(), len(wrong[0]), "write `->` between sources and targets")
    if not text.strip():
        return GrammarError("the expectation is empty", 0, 1, "as in `client -> server:8080`")
    return GrammarError("`->` is missing between sources and targets", len(text.rstrip()), 1, "as in `client -> server:8080`")


def _tokens(text: str, start: int, end: int) -> list[_Token]:
    tokens: list[_Token] = []
    while True:
        match = _TOKEN.match(text, start, end)
        if not match:
            return tokens
        tokens.append(_Token(match["word"], match.start("word")))
        start = match.end()


def _sources(text: str, arrow: int) -> list[SourceTerm]:
    tokens = _tokens(text, 0, arrow)
    if not tokens:
        raise GrammarError("there is no source before `->`", arrow, 2, "name endpoints, or `any`")
    terms: list[SourceTerm] = []
    expect_name = True
    for token in tokens:
        if expect_name:
            if token.text == ",":
                raise GrammarError("a source is missing before this comma", token.start)
            terms.append(_source(token))
        elif token.text != ",":
            raise GrammarError(
                f"expected `,` or `->` before `{token.text}`", token.start, len(token.text), "sources are separated by commas"
            )
        expect_name = not expect_name
    if expect_name:
        raise GrammarError("a source is missing after the last comma", tokens[-1].start)
    return terms


def _source(token: _Token) -> SourceTerm:
    name = token.text
    if name == "*":
        return SourceTerm(ANY, token.span)
    if name.startswith("[") and name.endswith("]") and is_address(name[1:-1]):
        return SourceTerm(name[1:-1], token.span)
    if not is_address(name) and ":" in name:
        host, _, port = name.rpartition(":")
        raise GrammarError("a source has no port", token.start + len(host), len(port) + 1, f"write `{host}`; only targets carry ports")
    return SourceTerm(name, token.span)


def _targets(text: str, start: int) -> tuple[tuple[TargetTerm, ...], int | None]:
    """The targets, and where the request begins (None: there is none)."""
    terms: list[TargetTerm] = []
    position = start
    while True:
        match = _TOKEN.match(text, position)
        if not match:
            where = len(text.rstrip())
            if terms:
                raise GrammarError("a target is missing after the last comma", where - 1)
            raise GrammarError("there is no target after `->`", start - 2, 2, "as in `client -> server:8080`")
        token = _Token(match["word"], match.start("word"))
        if token.text == ",":
            raise GrammarError("a target is missing before this comma", token.start)
        if token.text == "->":
            raise GrammarError("a second `->`", token.start, 2, "an expectation has one; write two of them")
        if not terms and _begins_request(token.text):
            raise GrammarError(f"there is no target before `{token.text}`", token.start, len(token.text))
        terms.append(_target(token))
        position = match.end()
        after = _TOKEN.match(text, position)
        if not after:
            return tuple(terms), None
        if after["word"] == ",":
            position = after.end()
            continue
        return tuple(terms), after.start("word")


def _begins_request(word: str) -> bool:
    return word in _WORDS or word in _METHODS


def _target(token: _Token) -> TargetTerm:
    text, span = token.text, token.span
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or not is_address(address) or ":" not in address:
            raise GrammarError(f"`{text}` is no address", span.start, span.length, "an IPv6 address stands in brackets: [2001:db8::1]:443")
        if rest and not rest.startswith(":"):
            raise GrammarError("expected `:` and a port after `]`", span.start + len(address) + 2, len(rest))
        return _with_port(address, rest[1:] if rest else None, span)
    if is_address(text) and ":" in text:
        if re.search(r":\d+\Z", text) and is_address(text.rpartition(":")[0]):
            host, _, port = text.rpartition(":")
            hint = f"the address in brackets: [{host}]:{port} or [{text}]:PORT"
        else:
            hint = f"the address in brackets: [{text}]:PORT"
        raise GrammarError(f"where does the address end and the port begin in `{text}`?", span.start, span.length, hint)
    name, colon, rest = text.partition(":")
    if ":" in rest:
        host, _, port = text.rpartition(":")
        hint = f"the address in brackets: [{host}]:{port}" if is_address(host) else "as in `server:8080`"
        raise GrammarError(f"`{text}` has more than one `:`", span.start, span.length, hint)
    if not name:
        raise GrammarError("a target is missing before `:`", span.start, span.length)
    return _with_port(ANY if name == "*" else name, rest if colon else None, span)


def _with_port(name: str, rest: str | None, span: Span) -> TargetTerm:
    if rest is None:
        return TargetTerm(name, span=span)
    port, slash, protocol_name = rest.partition("/")
    start = span.start + span.length - len(rest)
    if not port:
        raise GrammarError("a port is missing after `:`", start - 1, 1, "a number, or the name of a declared port")
    if port.isdigit():
        if not 1 <= int(port) <= 65535:
            raise GrammarError(f"{port} is no port: 1 to 65535", start, len(port))
        if port != str(int(port)):
            raise GrammarError(f"`{port}` is no port number", start, len(port), f"write {int(port)}")
    elif not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", port):
        raise GrammarError(f"`{port}` is no port", start, len(port), "a number, or the name of a declared port")
    protocol = None
    if slash:
        if protocol_name not in _PROTOCOLS:
            match = closest(protocol_name, _PROTOCOLS)
            hint = f"did you mean `{match}`?" if match else "TCP, UDP or SCTP; ping is a request: `client -> server icmp`"
            raise GrammarError(f"`{protocol_name}` is no protocol of ports", start + len(port) + 1, len(protocol_name), hint)
        protocol = Protocol(protocol_name)
    return TargetTerm(name, port, protocol, span)


def _request(text: str, start: int) -> Request:
    word, _, _ = text[start:].partition(" ")
    word = word.strip()
    argument_at = start + len(word)
    argument_at += len(text[argument_at:]) - len(text[argument_at:].lstrip())
    argument = text[argument_at:].rstrip()
    if word in ("icmp", "icmp6"):
        if argument:
            raise GrammarError(f"nothing may follow `{word}`", argument_at, len(argument))
        return Request(RequestKind(word))
    if word in ("grpc", "tls", "lookup"):
        return _named_request(word, argument, start, argument_at)
    if word in _METHODS or (re.fullmatch(r"[A-Z][A-Z-]*", word) and argument.startswith("/")):
        return Request(RequestKind.HTTP, method=word, path=_path(word, argument, start, argument_at))
    raise _no_request(word, start)


def _no_request(word: str, start: int) -> GrammarError:
    if word == "->":
        return GrammarError("a second `->`", start, 2, "an expectation has one; write two of them")
    if word.upper() in _METHODS:
        return GrammarError(f"`{word}` is no HTTP method", start, len(word), f"did you mean `{word.upper()}`?")
    if ":" in word or word == "any":
        return GrammarError(f"expected `,` or a request before `{word}`", start, len(word), "targets are separated by commas")
    if word.startswith("/"):
        return GrammarError("a request begins with its method", start, len(word), f"as in `GET {word}`")
    match = closest(word, (*_WORDS, *_METHODS))
    hint = f"did you mean `{match}`?" if match else "requests: METHOD /path, grpc /pkg.Service/Method, tls NAME, lookup NAME, icmp, icmp6"
    return GrammarError(f"`{word}` is no request", start, len(word), hint)


def _path(word: str, argument: str, start: int, argument_at: int) -> str:
    if not argument:
        raise GrammarError(f"a path is missing after `{word}`", start, len(word), f"as in `{word} /`")
    if not argument.startswith("/"):
        raise GrammarError(
            f"a path begins with `/`, not `{argument[0]}`",
            argument_at,
            len(argument),
            "the host goes into the long form: `http: {host: ...}`",
        )
    blank = re.search(r"\s", argument)
    if blank:
        hint = "write a blank in a path as %20; two targets are separated by a comma before the request"
        raise GrammarError("nothing may follow the path", argument_at + blank.start() + 1, len(argument) - blank.start() - 1, hint)
    return argument


def _named_request(word: str, argument: str, start: int, argument_at: int) -> Request:
    if not argument:
        example = {"grpc": "grpc /pkg.Service/Method", "tls": "tls api.example.com", "lookup": "lookup api.example.com"}[word]
        raise GrammarError(f"something is missing after `{word}`", start, len(word), f"as in `{example}`")
    if word == "grpc":
        if not re.fullmatch(r"/[\w.]+/\w+", argument):
            raise GrammarError(f"`{argument}` is no gRPC method", argument_at, len(argument), "as in `grpc /pkg.Service/Method`")
        return Request(RequestKind.GRPC, path=argument)
    if not is_dns_name(argument):
        why = no_dns_name(argument)
        what = f"`{argument}` is no DNS name" + ("" if why else " with a dot")
        raise GrammarError(what, argument_at, len(argument), why or f"as in `{word} api.example.com`")
    return Request(RequestKind(word), name=argument)
