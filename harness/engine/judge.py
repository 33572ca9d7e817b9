"""The verdict table of design 4: evidence of one check in, passed, failed or unknown out. Pure, total; the first row that matches wins.

No row guesses. Whatever is not covered by rows 1 to 6 is row 7, unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from harness.cases.case import Action, Expectation, Reason
from harness.cases.expectations import GRPC_STATUS
from harness.clusters.base import Observation
from harness.engine.outcome import Judgement, Outcome
from harness.model.flow import DropReason, Flow, FlowVerdict, LostEvents
from harness.model.probe import Ending, ProbeResult
from harness.model.traffic import Direction, RequestKind
from harness.model.verdict import PolicyRef

HTTP_FORBIDDEN = 403
HTTP_BEHIND_PROXY = frozenset({503, 504})
GRPC_PERMISSION_DENIED = 7
GRPC_BEHIND_PROXY = frozenset({4, 14})
"""DEADLINE_EXCEEDED and UNAVAILABLE: what a proxy says of an upstream that it could not reach."""
DNS_NOERROR = 0
DNS_REFUSED = 5

_FORWARDED = frozenset({FlowVerdict.FORWARDED, FlowVerdict.REDIRECTED, FlowVerdict.TRANSLATED, FlowVerdict.AUDIT})
_REASONS = {
    DropReason.POLICY_DENIED: Reason.DEFAULT_DENY,
    DropReason.POLICY_DENY: Reason.DENY_RULE,
    DropReason.AUTH_REQUIRED: Reason.AUTH,
}


class Evidence(Struct, frozen=True, gc=False):
    """All there is to judge one check by.

    `observation` is None where the agent told nothing of the probe, or where the probe was not sent since its lookup failed.
    `alive` says whether the target proved its life in this phase, None if it was not asked; `alive_why` why it did not.
    `baseline` is '' or what the baseline found wrong with this source, target and port. `flows_on`: flows are read in this run,
    so their absence means something.
    """

    expectation: Expectation
    observation: Observation | None
    lookup: Observation | None = None
    alive: bool | None = None
    alive_why: str = ""
    baseline: str = ""
    flows_on: bool = True


class Drop(Struct, frozen=True):
    """How a probe was dropped, by its own drop flows: the first side that did. None where the agent does not tell."""

    side: Direction | None
    reason: Reason | None
    number: int
    by: frozenset[PolicyRef]

    def __str__(self) -> str:
        how = self.reason.value if self.reason else f"drop reason {self.number}" if self.number else "an untold reason"
        where = f" at {self.side}" if self.side else ""
        whom = f" by {_listed(self.by)}" if self.by else ""
        return f"dropped{where}, {how}{whom}"


def judge(evidence: Evidence) -> Judgement:
    """The conclusion for one check."""
    return _unusable(evidence) or _judge_lookup(evidence) or _judge_probe(evidence)


# Row 1


def _unusable(evidence: Evidence) -> Judgement | None:
    why = _why_unusable(evidence)
    return Judgement(Outcome.UNKNOWN, 1, why) if why else None


def _why_unusable(evidence: Evidence) -> str:
    if evidence.baseline:
        return f"the baseline did not hold: {evidence.baseline}"
    if evidence.observation is None and evidence.lookup is None:
        return "the agent reported nothing for this probe"
    for each in (evidence.lookup, evidence.observation):
        if each is not None and (why := _broken(each, evidence)):
            return f"{_what(each, evidence)}{why}"
    if _must_be_alive(evidence) and not (evidence.observation and answered(evidence.observation)):
        return f"the target is not proven alive: {evidence.alive_why or 'nobody asked it in this phase'}"
    return ""


def _must_be_alive(evidence: Evidence) -> bool:
    """Whether the missing proof of life matters: always where it was tried, and under deny unless the drop is the only proof."""
    expectation = evidence.expectation
    return evidence.alive is False or (evidence.alive is None and expectation.action is Action.DENY and not expectation.undeclared)


def _what(observation: Observation, evidence: Evidence) -> str:
    return "the lookup: " if observation is evidence.lookup else ""


def _broken(observation: Observation, evidence: Evidence) -> str:
    result = observation.result
    if result.ending is Ending.ERROR:
        return f"the probe itself broke: {result.detail or 'no reason told'}"
    if evidence.flows_on and not observation.flows_on:
        return "flows were on and got lost; their absence proves nothing"
    if result.ending is Ending.REFUSED:
        return f"refused: nobody listens on {observation.probe.address} port {observation.probe.port}"
    if observation.lost:
        return f"{_losses(observation.lost)} while the probe was under way"
    verdicts = {flow.verdict for flow in own_flows(observation)}
    if FlowVerdict.DROPPED in verdicts and _reached(observation):
        return "an answer and a drop contradict each other: the server got the probe, and a flow says it was dropped"
    if FlowVerdict.AUDIT in verdicts and evidence.expectation.action is not Action.AUDIT:
        return "an AUDIT verdict: policy would have dropped it, but audit mode lets it through"
    return ""


def _losses(losses: Sequence[LostEvents]) -> str:
    """In words: how many, and of which kinds."""
    count = sum(lost.count for lost in losses)
    kinds = ", ".join(dict.fromkeys(lost.source for lost in losses if lost.source))
    return f"{f'{count} flow events were lost' if count else 'flow events may have been lost'}{f' ({kinds})' if kinds else ''}"


# The lookup before a named target: a probe of its own, that can deny the expectation at egress


def _judge_lookup(evidence: Evidence) -> Judgement | None:
    """None where the name was resolved: then the probe itself decides."""
    lookup = evidence.lookup
    if lookup is None:
        return None
    name = lookup.probe.request.name if lookup.probe.request else "the name"
    drop = denied(lookup, evidence)
    if drop is not None:
        return _dropped(drop, lookup, evidence, f"the lookup of {name} was ")
    result = lookup.result
    if result.ending is Ending.ANSWERED and result.status in (None, DNS_NOERROR):
        if evidence.observation is None:
            return Judgement(Outcome.UNKNOWN, 7, f"{name} was resolved, but the agent reported nothing for the probe")
        return None
    return Judgement(Outcome.UNKNOWN, 7, f"the lookup of {name} ended {_rcode(result)}, and no flow says that policy did it")


def _rcode(result: ProbeResult) -> str:
    """How a lookup that did not resolve ended."""
    return {2: "SERVFAIL", 3: "NXDOMAIN", DNS_REFUSED: "REFUSED"}.get(result.status or 0, result.ending.value)


# Rows 2 to 7


def _judge_probe(evidence: Evidence) -> Judgement:
    observation = evidence.observation
    assert observation is not None  # noqa: S101 -- row 1 and the lookup have seen to it
    action = evidence.expectation.action
    drop = denied(observation, evidence)
    if drop is not None:
        return _dropped(drop, observation, evidence, "")
    if answered(observation) and forwarded(observation, evidence.flows_on):
        if action is Action.DENY:
            return Judgement(Outcome.FAILED, 6, f"answered by {_server(observation)}: nothing denied it")
        return _answered(observation, evidence)
    return Judgement(Outcome.UNKNOWN, 7, _nothing_fits(observation, evidence))


def _answered(observation: Observation, evidence: Evidence) -> Judgement:
    """Allow and audit, with the intended server's answer and a flow that shows it forwarded."""
    expectation = evidence.expectation
    if expectation.action is Action.AUDIT and not any(flow.verdict is FlowVerdict.AUDIT for flow in own_flows(observation)):
        return Judgement(Outcome.UNKNOWN, 7, "answered and forwarded, but no flow carries the AUDIT verdict")
    if not _status_fits(expectation, observation.result):
        got = observation.result.status
        return Judgement(Outcome.UNKNOWN, 7, f"answered with status {got}, not {expectation.status}: policy does not explain that")
    if expectation.by is not None:
        found = policies(own_flows(observation), expectation.at, allowed=True)
        if not found:
            return Judgement(Outcome.UNKNOWN, 7, f"answered, but no flow tells which policy allowed it, so not that it is {expectation.by}")
        if expectation.by not in found:
            return Judgement(Outcome.UNKNOWN, 7, f"answered, but allowed by {_listed(found)}, not by {expectation.by}")
    how = "forwarded, with an AUDIT verdict" if expectation.action is Action.AUDIT else "forwarded"
    return Judgement(Outcome.PASSED, 2, f"answered by {_server(observation)}, {how if evidence.flows_on else 'packets only'}")


def _dropped(drop: Drop, observation: Observation, evidence: Evidence, prefix: str) -> Judgement:
    """Policy denied the probe (or its lookup): how that fits the expectation."""
    expectation = evidence.expectation
    if expectation.action is not Action.DENY:
        return Judgement(Outcome.FAILED, 3, f"{prefix}{drop}")
    wrong, untold = _mismatches(drop, observation, evidence)
    if wrong:
        return Judgement(Outcome.FAILED, 5, f"{prefix}{drop}; but {', '.join(wrong)}")
    if untold:
        return Judgement(Outcome.UNKNOWN, 7, f"{prefix}{drop}; but the flows do not tell {', '.join(untold)}")
    return Judgement(Outcome.PASSED, 4, f"{prefix}{drop}")


def _mismatches(drop: Drop, observation: Observation, evidence: Evidence) -> tuple[list[str], list[str]]:
    """What is otherwise than stated, and what is stated but not told by the flows."""
    expectation = evidence.expectation
    wrong: list[str] = []
    untold: list[str] = []
    if expectation.at is not None:
        if drop.side is None:
            untold.append("at which side")
        elif drop.side is not expectation.at:
            wrong.append(f"the side stated is {expectation.at}")
    if drop.reason is None and drop.number:
        wrong.append("that is no verdict of policy")
    elif expectation.reasons:
        if drop.reason is None:
            untold.append("for which reason")
        elif drop.reason not in expectation.reasons:
            wrong.append(f"the reason stated is {' or '.join(sorted(expectation.reasons))}")
    if expectation.by is not None:
        if drop.by and expectation.by not in drop.by:
            wrong.append(f"the policy stated is {expectation.by}")
        elif not drop.by and drop.reason is Reason.DEFAULT_DENY:
            wrong.append(f"the policy stated is {expectation.by}, and in a default deny no policy decides")
        elif not drop.by:
            untold.append(f"which policy did it, so not that it is {expectation.by}")
    if not _status_fits(expectation, observation.result):
        got = observation.result.status
        wrong.append(f"the status stated is {expectation.status}, and {'there was none' if got is None else f'it was {got}'}")
    return wrong, untold


def _nothing_fits(observation: Observation, evidence: Evidence) -> str:
    result = observation.result
    if answered(observation):
        return f"answered by {_server(observation)}, but no flow shows it forwarded"
    if result.ending is Ending.ANSWERED:
        request = observation.probe.request
        if request is not None and request.kind is RequestKind.LOOKUP and result.server in observation.probe.expected_servers:
            return f"{result.server} answered {_rcode(result)}: there is no address of {request.name} to be had"
        if result.server or result.nonce:
            meant = ", ".join(observation.probe.expected_servers) or "nobody"
            fresh = "" if result.nonce == observation.probe.nonce else ", with another probe's nonce"
            return f"answered by {result.server or 'an unnamed server'}{fresh}; the intended is {meant}"
        return f"answered with status {result.status} by no known server, and no flow says that policy did it"
    if _server_saw(observation):
        return f"{result.ending.value}, though the server got the probe: its answer was lost"
    if not evidence.flows_on:
        return f"{result.ending.value}, and without flows nothing tells whether policy did it"
    if own_flows(observation):
        return f"{result.ending.value}, though no flow says that it was dropped: the server is silent or the packet got lost"
    return f"{result.ending.value}, and no flow was seen of it"


# What came back


def intended(result: ProbeResult, observation: Observation) -> bool:
    """An answer that carries the probe's nonce and an intended server's name. A ping is answered by the kernel that has the address,
    whatever is served there: the nonce suffices."""
    probe = observation.probe
    if result.ending is not Ending.ANSWERED or result.nonce != probe.nonce:
        return False
    if probe.request is not None and probe.request.kind is RequestKind.LOOKUP and result.status not in (None, DNS_NOERROR):
        return False
    return result.server in probe.expected_servers or not probe.protocol.has_ports


def answered(observation: Observation) -> bool:
    """The intended server answered; a `sink` answers by having seen the token."""
    return intended(observation.result, observation) or (observation.probe.serve == "sink" and observation.result.server_saw)


def _server_saw(observation: Observation) -> bool:
    return observation.result.server_saw


def _reached(observation: Observation) -> bool:
    """Some server got the probe, whatever the client saw. A proxy's own answer names no server."""
    result = observation.result
    return result.server_saw or answered(observation) or (result.ending is Ending.ANSWERED and bool(result.server))


def _denial_answer(observation: Observation) -> bool:
    """What a proxy says when an L7 rule denies: 403, PERMISSION_DENIED, REFUSED, or a reset where a name was refused in TLS."""
    result, request = observation.result, observation.probe.spoken
    kind = request.kind if request else RequestKind.HTTP
    if kind is RequestKind.TLS:
        return result.ending is Ending.RESET
    if result.ending is not Ending.ANSWERED or result.server:
        return False
    match kind:
        case RequestKind.GRPC:
            return result.status in (GRPC_PERMISSION_DENIED, HTTP_FORBIDDEN)
        case RequestKind.LOOKUP:
            return result.status == DNS_REFUSED
        case _:
            return result.status == HTTP_FORBIDDEN


def _proxy_gave_up(observation: Observation) -> bool:
    """A proxy at the source answers for a target that it could not reach."""
    result, request = observation.result, observation.probe.spoken
    if result.ending is not Ending.ANSWERED or result.server:
        return False
    behind = HTTP_BEHIND_PROXY | GRPC_BEHIND_PROXY if request and request.kind is RequestKind.GRPC else HTTP_BEHIND_PROXY
    return result.status in behind


def _no_answer(observation: Observation) -> bool:
    silent = observation.result.ending in (Ending.TIMEOUT, Ending.STOPPED, Ending.RESET, Ending.UNREACHABLE)
    return (silent or _proxy_gave_up(observation)) and not _reached(observation)


def _status_fits(expectation: Expectation, result: ProbeResult) -> bool:
    wanted = expectation.status
    if isinstance(wanted, str):
        wanted = int(wanted) if wanted.isdigit() else GRPC_STATUS.index(wanted.upper())
    return expectation.status is None or result.status == wanted


def _server(observation: Observation) -> str:
    return observation.result.server or observation.probe.address


# What the flows say


def own_flows(observation: Observation) -> Sequence[Flow]:
    """The flows of the probe's own packets and the records of its requests, not of reply packets: those skip policy."""
    flows = observation.flows
    for each in flows:
        if each.is_reply and each.l7 is None:
            return [flow for flow in flows if not flow.is_reply or flow.l7 is not None]
    return flows


def forwarded(observation: Observation, flows_on: bool) -> bool:
    if not flows_on:
        return True
    return any(flow.verdict in _FORWARDED for flow in own_flows(observation))


def denied(observation: Observation, evidence: Evidence) -> Drop | None:
    """The drop, where there is one that what came back does not contradict."""
    if not evidence.flows_on:
        return _denied_by_packets(observation, evidence)
    drops = sorted((flow for flow in own_flows(observation) if flow.verdict is FlowVerdict.DROPPED), key=lambda flow: flow.time)
    if not drops:
        return None
    at_l7 = any(flow.is_l7 for flow in drops)
    if not (_no_answer(observation) or (at_l7 and _denial_answer(observation))):
        return None
    first = drops[0]
    same = [flow for flow in drops if flow.direction is first.direction]
    number = next((flow.drop_reason for flow in same if flow.drop_reason), 0)
    reason = Reason.L7 if first.is_l7 else _reason(number)
    by = policies(same, first.direction, allowed=False)
    if reason is Reason.L7:
        # The deciding policy of an L7 denial is the one whose rule sent the connection to the proxy.
        by |= policies(own_flows(observation), first.direction, allowed=True)
    return Drop(first.direction, reason, number, by)


def _denied_by_packets(observation: Observation, evidence: Evidence) -> Drop | None:
    """Flows are off. A proxy's denial names its reason itself; else silence is all that a drop leaves, and a dead server too."""
    if _denial_answer(observation) and not _reached(observation):
        return Drop(None, Reason.L7, 0, frozenset())
    silent = observation.result.ending is Ending.TIMEOUT and not _reached(observation)
    return Drop(None, None, 0, frozenset()) if silent and evidence.alive and observation is evidence.observation else None


def _reason(number: int) -> Reason | None:
    try:
        return _REASONS.get(DropReason(number))
    except ValueError:
        return None


def policies(flows: Iterable[Flow], side: Direction | None, *, allowed: bool) -> frozenset[PolicyRef]:
    """The policies that flows name for a side, or for either."""
    found: set[PolicyRef] = set()
    for flow in flows:
        if side is not Direction.EGRESS:
            found.update(flow.ingress_allowed_by if allowed else flow.ingress_denied_by)
        if side is not Direction.INGRESS:
            found.update(flow.egress_allowed_by if allowed else flow.egress_denied_by)
    return frozenset(found)


def _listed(policies: Iterable[PolicyRef]) -> str:
    return ", ".join(map(str, sorted(policies)))
