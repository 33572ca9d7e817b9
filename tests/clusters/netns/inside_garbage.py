"""Run as a process of its own, which joins a pod of a lab (`pid fd`, then an address) and talks nonsense to port 53 there. Prints as JSON
what it got back: the answers to questions that were none, to the one good question over TCP sent byte by byte, and to one beside all that."""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

from harness.clusters.netns import kernel
from harness.clusters.netns.dns import message
from harness.model.traffic import Family

SEED = 53
NAME = "www.example.com"
HEADER = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
GOOD = message.question(NAME, Family.IPV4, "aa")


def nonsense() -> list[bytes]:
    """Messages that are wrong in ways of their own, and many that are wrong at random."""
    chance = random.Random(SEED)  # noqa: S311 -- the same nonsense each time, nothing secret
    made = [
        b"",
        b"\x00",
        HEADER,
        HEADER + b"\xc0\x0c\x00\x01\x00\x01",  # a name that points at itself
        HEADER + b"\xc0\xff\x00\x01\x00\x01",  # a name that points behind the end
        HEADER + b"\x3f" + b"a" * 10,  # a label that is longer than the message
        HEADER + b"\x04\xff\xfe.\x00\x00\x00\x01\x00\x01",  # a label of bytes that are no text
        HEADER + b"\x00\x00\x01\x00\x01",  # the root
        HEADER + b"".join(b"\x3f" + b"a" * 63 for _ in range(6)) + b"\x00\x00\x01\x00\x01",  # a name that is too long
        struct.pack("!6H", 7, 0x0100, 2, 0, 0, 0) + GOOD[12:29] * 2,  # two questions
        struct.pack("!6H", 7, 0x8180, 1, 0, 0, 0) + GOOD[12:],  # an answer
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 9) + GOOD[12:],  # more records than there are
        GOOD + b"and more",
        GOOD[:-9] + b"\xff" * 9,  # options of no sense
        bytes(4096),
    ]
    made += [GOOD[:place] + bytes([GOOD[place] ^ 1 << chance.randrange(8)]) + GOOD[place + 1 :] for place in range(len(GOOD))]
    return made + [chance.randbytes(chance.randrange(1, 300)) for _ in range(100)]


def over_udp(address: str) -> int:
    """How many were answered."""
    answers = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.002)
        for each in nonsense():
            sock.sendto(each, (address, 53))
            with suppress(TimeoutError):
                sock.recv(4096)
                answers += 1
    return answers


def over_tcp(address: str) -> int:
    """How many connections took a message that is none, whole, in part, or with an end in the middle of it."""
    taken = 0
    for number, each in enumerate(nonsense()):
        with socket.create_connection((address, 53), timeout=1.0) as sock, suppress(OSError):
            framed = message.framed(each)
            sock.sendall(framed if number % 2 else framed[: max(1, len(framed) // 2)])
            if number % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            taken += 1
    return taken


def byte_by_byte(address: str) -> int | None:
    """The response code of a good question that comes one byte at a time."""
    with socket.create_connection((address, 53), timeout=2.0) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in message.framed(GOOD):
            sock.sendall(bytes([byte]))
        buffer = b""
        while True:
            whole, buffer = message.unframed(buffer)
            if whole is not None:
                said = message.said(whole)
                return said[2] if said else None
            more = sock.recv(4096)
            if not more:
                return None
            buffer += more


def main(pid: int, fd: int, address: str) -> dict[str, object]:
    kernel.join(Path(f"/proc/{pid}/fd/{fd}"), Path(f"/proc/{pid}/ns/user"))
    # These say the beginning of a length, or of a message, or nothing, and stay while all the rest is said.
    waiting = [socket.create_connection((address, 53), timeout=1.0) for _ in range(3)]
    waiting[0].sendall(b"\x00")
    waiting[1].sendall(message.framed(GOOD)[:20])
    seen = {"udp": over_udp(address), "tcp": over_tcp(address), "rcode": byte_by_byte(address)}
    for sock in waiting:
        sock.close()
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
