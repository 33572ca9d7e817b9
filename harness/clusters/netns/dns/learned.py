"""The names that each node's proxy learned from answers, and until when they hold. Says nothing of what policy makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

Selected = Callable[[str], bool]


class Learned:
    """By node, since what one node's proxy saw is unknown on the others; there, every endpoint's. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._until: dict[str, dict[tuple[str, str], float]] = {}

    def learn(self, node: str, name: str, addresses: Iterable[str], until: float) -> None:
        """An answer: these are the addresses of a name, until then. One that is known for longer stays so."""
        known = self._until.setdefault(node, {})
        for address in addresses:
            key = (address, name.rstrip(".").lower())
            known[key] = max(until, known.get(key, until))

    def forget(self, now: float) -> frozenset[str]:
        """Forget what has expired. The nodes where something had."""
        nodes = set()
        for node, known in self._until.items():
            for key in [key for key, until in known.items() if until <= now]:
                del known[key]
                nodes.add(node)
        return frozenset(nodes)

    def next_end(self) -> float | None:
        """When something expires; None where nothing is known."""
        return min((until for known in self._until.values() for until in known.values()), default=None)

    def of(self, node: str, selected: Selected) -> Mapping[str, frozenset[str]]:
        """The names of each address, those that policy selects: it gives an address an identity of its own for no other."""
        found: dict[str, set[str]] = {}
        for address, name in self._until.get(node, {}):
            if selected(name):
                found.setdefault(address, set()).add(name)
        return {address: frozenset(names) for address, names in found.items()}

    def clear(self) -> None:
        self._until.clear()
