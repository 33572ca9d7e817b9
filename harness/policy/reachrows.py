"""One direction of every endpoint, as rows of bits: what its table says of each identity on each port. Endpoints with one table share a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.model.traffic import Direction, Protocol
from harness.model.verdict import Decision
from harness.policy.evaluate import Evaluator
from harness.policy.l4 import build_filters
from harness.policy.rules import Parser, Rule
from harness.policy.subjects import Choice, Subject
from harness.policy.table import DirectionTable, Entry, blocks

Port: TypeAlias = tuple[Protocol, int]


class Reach(IntEnum):
    """What becomes of traffic. Of two sides, or of two of these, the greater counts."""

    ALLOW = 0
    CONDITIONAL = 1
    """Allowed at L4; a proxy judges each request."""
    UNKNOWN = 2
    ERROR = 3
    DENY = 4


class Rows:
    """Rows are made for endpoints, and asked for by number. Row 0 is open: of who is no endpoint, or under no policy."""

    def __init__(self, evaluator: Evaluator, direction: Direction, ports: Sequence[Port]) -> None:
        self._evaluator = evaluator
        self._subjects = evaluator.subjects
        self._direction = direction
        self._ports = tuple((protocol.number, port) for protocol, port in ports)
        self._size = -(-len(evaluator.identities.identities) // 8)
        self._stride = 8 * self._size
        self._full = (1 << self._stride * len(self._ports)) - 1
        self._plain = [self._is_plain(rule) for rule in self._subjects.rules]
        self._rule_bits: dict[object, tuple[int, int]] = {}
        self._by_subject: dict[object, int] = {}
        self._by_table: dict[object, int] = {None: 0}
        self._denied: list[bytes] = [self._bytes(0)]
        self._dense: dict[int, NDArray[np.uint8]] = {}
        self._frozen: NDArray[np.uint8] = np.empty((0, len(self._ports), self._size), dtype=np.uint8)

    def number(self, subject: Subject | None) -> int:
        """The row of an endpoint in this direction."""
        if subject is None:
            return 0
        key = (subject.node if subject.host else subject.position, subject.ports)
        found = self._by_subject.get(key)
        if found is None:
            found = self._by_subject[key] = self._made(subject)
        return found

    def _made(self, subject: Subject) -> int:
        subjects = self._subjects
        places = [place for each in Direction for place in subjects.rules_for(subject, each)]
        if all(self._plain[place] for place in places):
            choice = subjects.choice(subject, self._direction)
            found = self._by_table.get(choice)
            if found is None and choice is not None:
                found = self._by_table[choice] = self._append(self._denied_by(choice))
            return found or 0
        # Filters may conflict, ask for authentication or for a proxy: a matter of all rules together, in both directions.
        table = subjects.table(subject, self._direction)
        if not table.enforced:
            return 0
        found = self._by_table.get(id(table))
        if found is None:
            found = self._by_table[id(table)] = self._append(0)
            self._dense[found] = self._codes_of(table)
        return found

    def _append(self, denied: int) -> int:
        self._denied.append(self._bytes(denied))
        return len(self._denied) - 1

    def _bytes(self, wide: int) -> bytes:
        return wide.to_bytes(self._size * len(self._ports), "little")

    def _is_plain(self, rule: Rule) -> bool:
        """Whether what it says does not depend on other rules: such rules' bits are joined without merging filters."""
        select = self._evaluator.identities.select
        return (
            rule.auth is None
            and not self._subjects.requiring
            and all(each.parser is Parser.NONE for each in rule.ports)
            and not any(select(each).maybe for each in rule.peers or ())
        )

    def _denied_by(self, choice: Choice) -> int:
        allowed, denied = self._wide(self._subjects.implicit(choice))
        for place in choice.places:
            used = self._subjects.names_used[place]
            ports = tuple(item for item in choice.ports if item[0][0] in used) if used else ()
            found = self._rule_bits.get((place, ports))
            if found is None:
                filters = build_filters((self._subjects.rules[place],), default_deny=choice.default_deny)
                found = self._rule_bits[place, ports] = self._wide(self._subjects.entries(filters, choice))
            allowed |= found[0]
            denied |= found[1]
        return self._full & ~allowed | denied

    def _wide(self, entries: Iterable[Entry]) -> tuple[int, int]:
        """The identities that entries allow and deny, all ports' bits one behind the other."""
        allowed = denied = 0
        for each in entries:
            wide = 0
            for place, (protocol, port) in enumerate(self._ports):
                if each.covers(protocol, port):
                    wide |= each.certain << place * self._stride
            if each.policy.deny:
                denied |= wide
            else:
                allowed |= wide
        return allowed, denied

    def _codes_of(self, table: DirectionTable) -> NDArray[np.uint8]:
        """By port and position."""
        evaluator = self._evaluator
        found = np.empty((len(self._ports), self._stride), dtype=np.uint8)
        if table.error:
            found[:] = Reach.ERROR
            return found
        for place, (protocol, port) in enumerate(self._ports):
            covering = [each for each in table.entries if each.covers(protocol, port)]
            for block in blocks(covering, evaluator.identities.everything):
                position = (block & -block).bit_length() - 1
                found[place, self._mask(block)] = self._code(table, position, protocol, port)
        return found

    def _code(self, table: DirectionTable, position: int, protocol: int, port: int) -> Reach:
        outcome = table.outcome(position, protocol, port, self._evaluator.options)
        if outcome.decision.denies:
            return Reach.DENY
        if outcome.decision is Decision.UNKNOWN:
            return Reach.UNKNOWN
        return Reach.ALLOW if outcome.parser is Parser.NONE else Reach.CONDITIONAL

    def _mask(self, block: int) -> NDArray[np.bool_]:
        packed = np.frombuffer(block.to_bytes(self._size, "little"), dtype=np.uint8)
        return np.unpackbits(packed, bitorder="little").astype(np.bool_)

    def codes(self, numbers: Sequence[int], positions: Sequence[int]) -> NDArray[np.uint8]:
        """Values of Reach by port, row and position."""
        if len(self._frozen) != len(self._denied):
            joined = np.frombuffer(b"".join(self._denied), dtype=np.uint8)
            self._frozen = joined.reshape(len(self._denied), len(self._ports), self._size)
        rows, columns = np.array(numbers, dtype=np.intp), np.array(positions, dtype=np.intp)
        found = np.empty((len(self._ports), len(rows), len(columns)), dtype=np.uint8)
        special = [(place, number) for place, number in enumerate(numbers) if number in self._dense]
        for at in range(len(self._ports)):
            unpacked = np.unpackbits(self._frozen[:, at][rows], axis=1, bitorder="little")
            np.take(unpacked, columns, axis=1, out=found[at])
        found *= np.uint8(Reach.DENY)
        for place, number in special:
            found[:, place] = self._dense[number][:, columns]
        return found
