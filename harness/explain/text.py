"""An account for people, and as JSON. Where rules are written is asked of `where`; colour is the caller's wish."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import yaml

from harness.explain.account import Account, NearRule, Side
from harness.explain.miss import protocol_text
from harness.model.traffic import Direction
from harness.model.verdict import Decision, L7Decision, PolicyRef, RuleRef, Verdict
from harness.policy.rules import RESERVED_POLICY

_COLOURS = {Verdict.ALLOW: "32", Verdict.DENY: "31", Verdict.ERROR: "35", Verdict.UNKNOWN: "33"}


class Where:
    """Where policies and rules are written: `place` gives file:line, `excerpt` the lines of a rule; both '' and () if unknown."""

    def __init__(self, place: Callable[[RuleRef | PolicyRef], str], excerpt: Callable[[RuleRef], tuple[str, ...]]) -> None:
        self.place = place
        self.excerpt = excerpt


def text(account: Account, where: Where, *, colour: bool) -> str:
    """The account, as lines."""
    return "\n".join(_lines(account, where, colour=colour))


def _lines(account: Account, where: Where, *, colour: bool) -> Iterator[str]:
    traffic, verdict = account.traffic, account.verdict.verdict
    request = f" {traffic.request}" if traffic.request else ""
    flow = f"{traffic.source} -> {traffic.destination} {protocol_text(traffic.protocol, traffic.port)}{request}"
    yield f"{_painted(verdict.value.upper(), _COLOURS[verdict], colour=colour)}  {flow}"
    for side in account.sides:
        yield ""
        yield from _side(side, where, colour=colour)
    if account.remedy is not None:
        yield ""
        if account.remedy.policies:
            yield "To allow it, apply:"
            yield ""
            yield yaml.safe_dump_all(account.remedy.policies, sort_keys=False).rstrip()
        if account.remedy.note:
            note = account.remedy.note
            yield f"Mind: {note}." if account.remedy.policies else f"To allow it: {note}."
        for ref in account.remedy.blocking:
            yield f"  {_located(ref, where)}"


def _side(side: Side, where: Where, *, colour: bool) -> Iterator[str]:
    way = "leaving" if side.direction is Direction.EGRESS else "entering"
    verdict = side.verdict
    word = "deny" if side.denies else str(verdict.decision) if verdict.decision is not Decision.NOT_APPLICABLE else "allow"
    code = "31" if side.denies else "32" if side.allows else "33"
    yield f"{_painted(f'{side.direction.value}: {word}', code, colour=colour)}  {way} {side.endpoint}: {_reason(side)}"
    if verdict.selecting:
        listed = [f"{_policy(each, where)}{' (default deny)' if each in side.denying else ''}" for each in verdict.selecting]
        yield from _listed("selected by", listed)
    if verdict.rules:
        silent = {each.ref: each for each in side.silent}
        yield (
            "  decided by"
            if not side.silent or any(each not in silent for each in verdict.rules)
            else "  let the connection pass, not the request"
        )
        for ref in verdict.rules:
            missed = f": {_missed(silent[ref])}" if ref in silent else ""
            yield f"    {_located(ref, where)}{missed}"
            for line in where.excerpt(ref):
                yield _painted(f"      | {line}", "2", colour=colour)
    yield from _listed(
        "almost matched" if not side.allows else "almost denied", [f"{_located(each.ref, where)}: {_missed(each)}" for each in side.almost]
    )
    yield from _listed("almost selected", [f"{_policy(each.ref, where)}: {each.miss.text}" for each in side.near])
    rest = side.unselecting - len(side.near)
    if rest:
        yield f"  {rest} {'other policy does' if rest == 1 else 'other policies do'} not select it"


def _listed(title: str, lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        yield f"  {title}"
        yield from (f"    {each}" for each in lines)


def _reason(side: Side) -> str:
    verdict = side.verdict
    if verdict.l7 is L7Decision.DENY:
        return f"the connection is allowed, the request is not{f' ({verdict.note})' if verdict.note else ''}"
    match verdict.decision:
        case Decision.NOT_APPLICABLE:
            return "no endpoint of Cilium, nothing is enforced here"
        case Decision.DEFAULT_DENY:
            return "selected, and no rule allows it (default deny)"
        case Decision.DENY_RULE:
            return "a deny rule matches, and wins over every allow"
        case Decision.AUTH:
            return "allowed only with mutual authentication, which is not on"
        case Decision.ERROR | Decision.UNKNOWN:
            return verdict.note
        case _:
            return _allowed(side)


def _allowed(side: Side) -> str:
    if not side.verdict.enforced:
        return "no policy selects it in this direction, so all is allowed"
    if side.verdict.redirected and side.verdict.l7 is L7Decision.NOT_APPLICABLE:
        return "a rule allows it; a proxy judges each request (ask with one, as in GET /path)"
    return (
        "a rule allows it"
        if not all(ref.policy == RESERVED_POLICY for ref in side.verdict.rules)
        else "no rule, but no default deny either"
    )


def _missed(rule: NearRule) -> str:
    return "; ".join(each.text for each in rule.misses)


def _policy(ref: PolicyRef, where: Where) -> str:
    place = where.place(ref)
    return f"{ref}  {place}" if place else str(ref)


def _located(ref: RuleRef, where: Where) -> str:
    place = where.place(ref)
    if ref.policy == RESERVED_POLICY:
        return f"{ref.path} (Cilium's own)"
    return f"{ref}  {place}" if place else str(ref)


def _painted(words: str, code: str, *, colour: bool) -> str:
    return f"\x1b[{code}m{words}\x1b[0m" if colour else words


def as_json(account: Account, where: Where) -> str:
    """The account as one JSON object."""
    traffic = account.traffic
    remedy = account.remedy
    return json.dumps(
        {
            "source": str(traffic.source),
            "destination": str(traffic.destination),
            "protocol": traffic.protocol.value,
            "port": traffic.port,
            "request": str(traffic.request) if traffic.request else None,
            "verdict": account.verdict.verdict,
            "l7": account.verdict.l7,
            "egress": _side_json(account.egress, where),
            "ingress": _side_json(account.ingress, where),
            "remedy": None
            if remedy is None
            else {"policies": remedy.policies, "note": remedy.note, "blocking": [_rule_json(each, where) for each in remedy.blocking]},
        },
        indent=2,
    )


def _side_json(side: Side, where: Where) -> dict[str, Any]:
    def near(rules: Iterable[NearRule]) -> list[dict[str, Any]]:
        return [
            {
                **_rule_json(each.ref, where),
                "deny": each.deny,
                "misses": [{"requirement": miss.kind, "text": miss.text} for miss in each.misses],
            }
            for each in rules
        ]

    return {
        "endpoint": side.endpoint,
        "decision": side.verdict.decision,
        "l7": side.verdict.l7,
        "note": side.verdict.note,
        "policies": [str(each) for each in side.verdict.selecting],
        "defaultDenyBy": [str(each) for each in side.denying],
        "rules": [_rule_json(each, where) for each in side.verdict.rules],
        "notMatching": near(side.silent),
        "almost": near(side.almost),
        "almostSelecting": [
            {"policy": str(each.ref), "at": where.place(each.ref), "requirement": each.miss.kind, "text": each.miss.text}
            for each in side.near
        ],
    }


def _rule_json(ref: RuleRef, where: Where) -> dict[str, str]:
    return {"policy": str(ref.policy), "path": ref.path, "at": where.place(ref)}
