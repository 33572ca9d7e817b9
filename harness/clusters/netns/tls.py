"""TLS as bytes: one end of a connection, fed what came and told what to send. No sockets, and nobody is authenticated: the lab's certificate
is made by the lab, and its clients believe everything. What counts is the server name that a client asks for."""

from __future__ import annotations

import ssl
import tempfile
from functools import cache

_RECORD = b"\x16\x03"
_CERTIFIED = "lab.invalid"
_CHUNK = 1 << 16


def is_hello(data: bytes) -> bool:
    """Whether a connection that begins like this speaks TLS."""
    return data.startswith(_RECORD)


@cache
def _server() -> ssl.SSLContext:
    import trustme

    certificate = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert(_CERTIFIED, key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.private_key_and_cert_chain_pem.bytes())
        file.flush()
        context.load_cert_chain(file.name)
    return context


@cache
def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def prepare() -> None:
    """Make what takes a while the first time: the certificate."""
    _server()
    _client()


class Tls:
    """One end. Raises ssl.SSLError where the other end does not keep to the protocol."""

    def __init__(self, *, server: bool, name: str = "") -> None:
        """`name` is the server name that a client asks for; '' for none."""
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        context = _server() if server else _client()
        self._ssl = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=None if server else name or None)
        self._to_say = b""
        self._shaken = False
        self.feed(b"")

    def feed(self, data: bytes) -> bytes:
        """Take what came; the plain text in it, as far as it is complete."""
        self._in.write(data)
        if not self._shaken:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                return b""
            self._shaken = True
            self.say(b"")
        heard = b""
        while True:
            try:
                more = self._ssl.read(_CHUNK)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return heard
            if not more:
                return heard
            heard += more

    def say(self, text: bytes) -> None:
        """Send this, as soon as the handshake is over."""
        self._to_say += text
        if self._shaken and self._to_say:
            self._ssl.write(self._to_say)
            self._to_say = b""

    def take(self) -> bytes:
        """What is to be sent by now."""
        return self._out.read()
