"""Words for evidence: what was sent, what came back, what a flow says, what the model says. One line each, no layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from harness.clusters.base import Observation
from harness.engine.outcome import CheckResult
from harness.model.flow import DropReason, EventType, Flow
from harness.model.probe import Ending
from harness.model.traffic import Direction
from harness.model.verdict import Decision, DirectionVerdict, L7Decision, PolicyRef, PolicyVerdict, RuleRef

_DROPS: Mapping[int, str] = {
    DropReason.POLICY_DENIED: "default deny",
    DropReason.POLICY_DENY: "a deny rule",
    DropReason.AUTH_REQUIRED: "authentication required",
}
_ENDINGS = {
    Ending.REFUSED: "connection refused: nobody listens there",
    Ending.RESET: "the connection was reset",
    Ending.TIMEOUT: "nothing, until the time-out",
    Ending.STOPPED: "nothing; stopped early, after its drop was seen",
    Ending.UNREACHABLE: "the network says unreachable",
    Ending.ERROR: "the probe itself broke",
}


def milliseconds(seconds: float) -> str:
    """`1.2 ms`, `340 ms`, `2.1 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def sent(observation: Observation) -> str:
    """Who dialled what, with which request."""
    probe, five_tuple = observation.probe, observation.result.five_tuple
    address = f"[{probe.address}]" if ":" in probe.address else probe.address
    what = str(five_tuple) if five_tuple else f"{probe.protocol} to {address}:{probe.port} (no socket was bound)"
    request = f", {probe.request}" if probe.request else ""
    return f"{what}{request}, from {probe.site}"


def came_back(observation: Observation) -> str:
    """How the probe ended, as its client and the server saw it."""
    result = observation.result
    after = f", after {milliseconds(result.seconds)}"
    if result.ending is Ending.ANSWERED:
        status = f", status {result.status}" if result.status is not None else ""
        return f"an answer from {result.server or 'an unnamed server'}{status}{after}"
    text = _ENDINGS[result.ending] + (f" ({result.detail})" if result.detail else "") + after
    return text + ("; yet the server got it" if result.server_saw else "")


def flow_lines(flows: Iterable[Flow]) -> list[str]:
    """A line a flow, equal neighbours once: a drop comes as verdict and as drop event, with the same words."""
    lines: list[list[str]] = []
    for line in map(flow_line, flows):
        if lines and lines[-1][0] == line:
            lines[-1].append(line)
        else:
            lines.append([line])
    return [same[0] + (f" (x{len(same)})" if len(same) > 1 else "") for same in lines]


def flow_line(flow: Flow) -> str:
    """One flow as people read `hubble observe`, with who decided."""
    words = [_verdict(flow)]
    if flow.direction:
        words.append(f"at {flow.direction}")
    if flow.is_reply:
        words.append("reply")
    words.append(f"{_end(flow, Direction.EGRESS)} -> {_end(flow, Direction.INGRESS)}")
    if flow.event_type == EventType.L7 or flow.l7:
        words.append(_l7(flow))
    deciders = {
        "denied by": (*flow.egress_denied_by, *flow.ingress_denied_by),
        "allowed by": (*flow.egress_allowed_by, *flow.ingress_allowed_by),
    }
    words += [f"{how} {listed(policies)}" for how, policies in deciders.items() if policies]
    return " ".join(words)


def _verdict(flow: Flow) -> str:
    if not flow.dropped or flow.l7:
        return flow.verdict.name
    return f"DROPPED ({_DROPS.get(flow.drop_reason, f'drop reason {flow.drop_reason}')})"


def _end(flow: Flow, side: Direction) -> str:
    end, address, port = (
        (flow.source, flow.five_tuple.source, flow.five_tuple.source_port)
        if side is Direction.EGRESS
        else (flow.destination, flow.five_tuple.destination, flow.five_tuple.destination_port)
    )
    named = f"{end.namespace}/{end.pod}" if end.pod else next(iter(end.labels), "") or address
    return f"{named}:{port}" if port else named


def _l7(flow: Flow) -> str:
    record = flow.l7
    if record is None:
        return "L7"
    return (
        f"DNS {record.query} rcode {record.rcode}"
        if record.kind == "dns"
        else f"HTTP {record.method} {record.url} {record.code or ''}".rstrip()
    )


def listed(items: Iterable[object], limit: int = 4) -> str:
    """`a, b, c and 3 more`."""
    texts = [str(each) for each in items]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


def model_says(prediction: PolicyVerdict, locate: Callable[[PolicyRef], str]) -> str:
    """The verdict of the model, side by side, with the rules that decided. `locate` gives ` (file:line)` of a policy, or ''."""
    return f"{prediction.verdict}; egress: {_side(prediction.egress, locate)}; ingress: {_side(prediction.ingress, locate)}"


def _side(side: DirectionVerdict, locate: Callable[[PolicyRef], str]) -> str:
    note = f" ({side.note})" if side.note else ""
    if side.decision is Decision.NOT_APPLICABLE:
        return f"no Cilium endpoint there{note}"
    if not side.enforced and side.decision is Decision.ALLOW:
        return f"nothing enforced{note}"
    if side.decision is Decision.DEFAULT_DENY:
        return f"default deny, from {listed(_placed(side.selecting, locate)) or 'the enforcement mode'}{note}"
    l7 = f", l7 {side.l7}" if side.l7 is not L7Decision.NOT_APPLICABLE else ""
    by = f" by {listed(rules(side.rules, locate))}" if side.rules else ""
    return f"{side.decision}{by}{l7}{note}"


def _placed(policies: Iterable[PolicyRef], locate: Callable[[PolicyRef], str]) -> list[str]:
    return [f"{policy}{locate(policy)}" for policy in policies]


def rules(deciding: Iterable[RuleRef], locate: Callable[[PolicyRef], str]) -> list[str]:
    """Rules as `Kind/namespace/name ingress[0] (file:line)`."""
    return [f"{rule}{locate(rule.policy)}" for rule in deciding]


def title(result: CheckResult) -> str:
    """`frontend -> backend[1]:8080/TCP`."""
    return f"{result.source} -> {result.target}"
