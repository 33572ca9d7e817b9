"""Run as a process of its own, in namespaces: how often an IPv6 address is not yet its namespace's own when it has just been added."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.clusters.netns import kernel, rtnetlink
from harness.clusters.netns.kernel import Namespace

ROUNDS = 100
ADDRESS = "fd00:1::2"
_RTF_LOCAL = 0x80000000


def owned() -> bool:
    """Whether the kernel delivers the address in the namespace of this thread (fields as in the kernel's net/ipv6/route.c)."""
    routes = [line.split() for line in Path("/proc/net/ipv6_route").read_text().splitlines()]
    return any(each[0] == "fd000001000000000000000000000002" and int(each[8], 16) & _RTF_LOCAL for each in routes)


def late() -> int:
    count = 0
    for _ in range(ROUNDS):
        namespace = Namespace.create()
        rtnetlink.send(namespace, [rtnetlink.up(rtnetlink.LOOPBACK, ipv6=True)])
        rtnetlink.send(namespace, [rtnetlink.address(rtnetlink.LOOPBACK, ADDRESS), rtnetlink.delivered(ADDRESS)])
        namespace.enter()
        count += not owned()
        namespace.close()
    return count


if __name__ == "__main__":
    try:
        kernel.isolate()
    except OSError as error:
        sys.exit(f"forbidden: {error}")
    sys.stdout.write(json.dumps({"late": late()}))
