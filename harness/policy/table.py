"""What is decided for one endpoint and direction: its entries, and what they say about a peer, protocol and port.

An entry is a port range of a protocol with the identities it is for. Which entries there are is `evaluate`'s business; the rules of
precedence are Cilium's (pkg/policy/mapstate.go, bpf/lib/policy.h).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec import Struct, field

from harness.model.verdict import Decision, PolicyRef, RuleRef
from harness.policy.l4 import Filter, SelectorPolicy
from harness.policy.l7 import Applicable, winning_redirect
from harness.policy.options import Options
from harness.policy.rules import AuthMode, Parser

ALL_PORTS = 65535

Span: TypeAlias = tuple[int, int, int]
"""Protocol, first and last port."""


class Entry(Struct, frozen=True):
    """`protocol` 0 is every protocol. `certain` and `maybe` are sets of identities; `wildcard` says that it is for every peer."""

    protocol: int
    first: int
    last: int
    certain: int
    maybe: int
    wildcard: bool
    filter: Filter | None
    policy: SelectorPolicy

    def covers(self, protocol: int, port: int) -> bool:
        return self.protocol in (0, protocol) and self.first <= port <= self.last

    @property
    def width(self) -> tuple[bool, int]:
        """How unspecific the L4 part is; smaller is more specific."""
        return not self.protocol, self.last - self.first


class PeerEntry(Struct, frozen=True):
    """An entry as it applies to one peer."""

    entry: Entry
    certain: bool


class Outcome(Struct, frozen=True):
    """What the entries that match a peer, protocol and port say together."""

    decision: Decision
    rules: tuple[RuleRef, ...]
    parser: Parser
    auth: bool
    allows: tuple[Applicable, ...]
    note: str = ""


class DirectionTable(Struct):
    """The policy of one endpoint (or of all that are alike) in one direction. `key` numbers tables within an evaluator."""

    key: int
    enforced: bool
    default: Decision
    entries: Sequence[Entry] = ()
    selecting: tuple[PolicyRef, ...] = ()
    error: str = ""
    peers: dict[int, tuple[PeerEntry, ...]] = field(default_factory=dict)
    _spans: dict[int, tuple[list[Span], list[Span]]] = field(default_factory=dict)
    _simple: bool | None = None

    def decision(self, position: int, protocol: int, port: int, options: Options) -> Decision:
        """The decision alone, as `decide` would make it; fast."""
        if not self.enforced:
            return Decision.ALLOW
        if self.error:
            return Decision.ERROR
        if self._simple is None:
            self._simple = not any(each.maybe or each.policy.auth for each in self.entries)
        if not self._simple:
            return self.outcome(position, protocol, port, options).decision
        spans = self._spans.get(position)
        if spans is None:
            bit = 1 << position
            denies: list[Span] = []
            allows: list[Span] = []
            for each in self.entries:
                if each.certain & bit:
                    (denies if each.policy.deny else allows).append((each.protocol, each.first, each.last))
            spans = self._spans[position] = denies, allows
        for covered, first, last in spans[0]:
            if first <= port <= last and covered in (0, protocol):
                return Decision.DENY_RULE
        for covered, first, last in spans[1]:
            if first <= port <= last and covered in (0, protocol):
                return Decision.ALLOW
        return self.default

    def outcome(self, position: int, protocol: int, port: int, options: Options) -> Outcome:
        """The same with all that goes with it, where something is enforced and can be."""
        return decide([each for each in self.for_peer(position) if each.entry.covers(protocol, port)], self.default, options)

    def for_peer(self, position: int) -> tuple[PeerEntry, ...]:
        """The entries that apply to the identity at a position. Cached."""
        found = self.peers.get(position)
        if found is None:
            bit = 1 << position
            found = self.peers[position] = tuple(
                PeerEntry(each, bool(each.certain & bit)) for each in self.entries if (each.certain | each.maybe) & bit
            )
        return found


def blocks(entries: Iterable[Entry], everything: int) -> list[int]:
    """The identities of `everything`, parted so that within a block the same entries apply."""
    found = [everything]
    for mask in {mask for entry in entries for mask in (entry.certain, entry.maybe)}:
        parted = []
        for block in found:
            inside = block & mask
            if inside and inside != block:
                parted += [inside, block ^ inside]
            else:
                parted.append(block)
        found = parted
    return found


def decide(matching: Sequence[PeerEntry], default: Decision, options: Options) -> Outcome:
    """The outcome where exactly these entries match. Any deny wins; then any allow, subject to authentication; then the default."""
    denies = [each for each in matching if each.entry.policy.deny]
    allows = [each for each in matching if not each.entry.policy.deny]
    if any(each.certain for each in denies):
        rules = _rules(each for each in denies if each.certain)
        return Outcome(Decision.DENY_RULE, rules, Parser.NONE, auth=False, allows=())
    applicable = tuple(Applicable(each.entry.filter, each.entry.policy, each.certain) for each in allows)
    certain = [each for each in allows if each.certain]
    if not certain:
        if allows:
            note = "an allow depends on what the model cannot know (names that DNS taught, cloud groups, addresses of pods or nodes)"
            return Outcome(Decision.UNKNOWN, _rules(allows), Parser.NONE, auth=False, allows=applicable, note=note)
        if denies and default is Decision.ALLOW:
            return _maybe_denied(denies)
        return Outcome(default, (), Parser.NONE, auth=False, allows=())
    if denies:
        return _maybe_denied(denies)
    mode = _authentication([each.entry for each in certain])
    redirect = winning_redirect(each for each in applicable if each.certain)
    parser = redirect.parser if redirect else Parser.NONE
    required = mode is AuthMode.ALWAYS_FAIL or (mode is AuthMode.REQUIRED and not options.auth_enabled)
    rules = _rules(certain)
    return Outcome(Decision.AUTH if required else Decision.ALLOW, rules, parser, auth=mode.rank > 0, allows=applicable)


def _maybe_denied(denies: Sequence[PeerEntry]) -> Outcome:
    note = "a deny depends on what the model cannot know (cloud groups, addresses of pods or nodes)"
    return Outcome(Decision.UNKNOWN, _rules(denies), Parser.NONE, auth=False, allows=(), note=note)


def _rules(entries: Iterable[PeerEntry]) -> tuple[RuleRef, ...]:
    return tuple(dict.fromkeys(rule for each in entries for rule in each.entry.policy.rules))


def _precedence(policy: SelectorPolicy) -> int:
    """Among allows: a redirect outranks a plain allow, one with a lower priority number outranks the others."""
    return 0 if policy.plain else (1 << 17) - (policy.priority or 1 << 16)


def _authentication(entries: Sequence[Entry]) -> AuthMode:
    """The mode of the entry that Cilium's two lookups (by identity, by wildcard) find among matching allows.

    An entry without a mode of its own takes it from the most specific broader one for the same peers, and across the two lookups from
    the other if that is numerically higher.
    """
    if all(each.policy.auth is None for each in entries):
        return AuthMode.DISABLED
    found = []
    for wildcard in (False, True):
        same = sorted((each for each in entries if each.wildcard is wildcard), key=lambda each: each.width)
        if not same:
            continue
        best = max(_precedence(each.policy) for each in same)
        # An entry with a mode of its own is kept under a broader redirect and inherits that redirect.
        winner = next(each for each in same if each.policy.auth is not None or _precedence(each.policy) == best)
        own = winner.policy.auth
        mode = own or next((each.policy.auth for each in same if each.policy.auth is not None), AuthMode.DISABLED)
        found.append((best, winner.width, own is not None, mode))
    if len(found) == 1:
        return found[0][3]
    (mine, my_width, my_own, my_mode), (other, other_width, other_own, other_mode) = found
    if mine != other:
        return my_mode if mine > other else other_mode
    if other_width < my_width:
        mine, my_own, my_mode, other_mode = other, other_own, other_mode, my_mode
    return other_mode if not my_own and other_mode.rank > my_mode.rank else my_mode
