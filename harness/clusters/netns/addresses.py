"""Which address everything in a lab has. Pure; says nothing of what is there."""

from __future__ import annotations

import ipaddress

_POD4 = ipaddress.ip_network("10.244.0.0/16")
_NODE_BITS = 20
MAX_NODES = 9
"""Nodes `a` to `i`."""
MAX_PODS = 2 ** (32 - _NODE_BITS) - 4
"""Pods on one node."""

NODES4 = "10.78.0.0/24"
NODES6 = "fd00:10:78::/64"
PODS4 = str(_POD4)
PODS6 = "fd00:10:244::/56"
GATEWAY4 = "169.254.1.1"
GATEWAY6 = "fe80::1"
KUBE_APISERVER = ("10.78.0.100", "fd00:10:78::100")
WORLD = ("203.0.113.10", "2001:db8:113::10")


def node(index: int) -> tuple[str, str]:
    """A node's own addresses, IPv4 and IPv6; `a` has index 0."""
    return f"10.78.0.{index + 1}", f"fd00:10:78::{index + 1:x}"


def pods_of(index: int) -> tuple[str, str]:
    """The prefixes of a node's pods."""
    first = int(_POD4.network_address) + (index << (32 - _NODE_BITS))
    return f"{ipaddress.ip_address(first)}/{_NODE_BITS}", str(ipaddress.ip_network(f"fd00:10:244:{index:x}::/64"))


def pod(index: int, slot: int) -> tuple[str, str]:
    """The addresses of a node's pod number `slot`, counted from 0."""
    first = int(_POD4.network_address) + (index << (32 - _NODE_BITS))
    return str(ipaddress.ip_address(first + slot + 2)), str(ipaddress.ip_address(f"fd00:10:244:{index:x}::{slot + 2:x}"))


def service(slot: int) -> tuple[str, str]:
    """The cluster addresses of service number `slot`, counted from 0; .10 is left to a DNS service, as everywhere."""
    number = slot + 20
    return f"10.96.{number >> 8}.{number & 255}", f"fd00:10:96::{number:x}"


def node_index(name: str) -> int:
    """`a` is 0. Raises ValueError for a name that no lab has."""
    if len(name) != 1 or not 0 <= ord(name) - ord("a") < MAX_NODES:
        raise ValueError(f"the lab's nodes are called a to {chr(ord('a') + MAX_NODES - 1)}, not {name!r}")
    return ord(name) - ord("a")
