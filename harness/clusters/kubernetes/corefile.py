"""Names of ours in a Corefile, the configuration of CoreDNS: one marked block that is added at the end and taken out again, to the byte. Pure.

Each name is a server block of its own, not a line in a `hosts` of the user's: that plugin may be there once in a server block, has one TTL
for all its names, and would hand what lies below a name on to resolvers outside (here that is SERVFAIL). So nothing of the user's text is ever
changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from msgspec import Struct

_BEGIN = "# policy-harness: begin. Names of test runs; goes when they end, or by `harness sweep`"
_END = "# policy-harness: end"
_ENTRY = "# policy-harness: "
_BLOCK = re.compile(rf"\n{re.escape(_BEGIN)}\n(.*?){re.escape(_END)}\n", re.DOTALL)
_QUICKLY = "reload 2s 1s"
"""How often CoreDNS looks whether its configuration is another (the least that it accepts), from when it has read the first of our blocks: the
interval is the whole server's, and the last block's word counts."""


class Entry(Struct, frozen=True, order=True):
    """A name, where it leads, and for how many seconds that holds. `runs` are those that need it, the first `since` then (s since 1970)."""

    name: str
    addresses: tuple[str, ...]
    ttl: int
    runs: tuple[str, ...] = ()
    since: int = 0


def entries(text: str) -> tuple[Entry, ...]:
    """The names of ours in a Corefile, sorted. A line that somebody spoilt is none."""
    found = _BLOCK.search(text)
    lines = found[1].splitlines() if found else ()
    return tuple(sorted(entry for line in lines if line.startswith(_ENTRY) and (entry := _read(line.removeprefix(_ENTRY))) is not None))


def with_entries(text: str, wanted: Iterable[Entry]) -> str:
    """The Corefile with these names of ours and no other; without any it is as if there had never been one."""
    block = "".join(map(_written, sorted(wanted)))
    block = f"\n{_BEGIN}\n{block}{_END}\n" if block else ""
    found = _BLOCK.search(text)
    if found is None:
        return text + block
    return text[: found.start()] + block + text[found.end() :]


def _written(entry: Entry) -> str:
    said = json.dumps({"name": entry.name, "addresses": entry.addresses, "ttl": entry.ttl, "runs": entry.runs, "since": entry.since})
    hosts = "".join(f"        {address} {entry.name}\n" for address in entry.addresses)
    # /dev/null, since without a file of its own the plugin reads the pod's /etc/hosts.
    return f"{_ENTRY}{said}\n{entry.name}:53 {{\n    {_QUICKLY}\n    hosts /dev/null {{\n{hosts}        ttl {entry.ttl}\n    }}\n}}\n"


def _read(line: str) -> Entry | None:
    try:
        said = json.loads(line)
        return Entry(str(said["name"]), tuple(said["addresses"]), int(said["ttl"]), tuple(said["runs"]), int(said["since"]))
    except (ValueError, TypeError, KeyError):
        return None
