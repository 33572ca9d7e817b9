"""What a cluster would report of a probe that the policy model has judged: the client's result and the flows. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from harness.model.flow import DropReason, EventType, FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record
from harness.model.probe import Ending, Probe, ProbeResult
from harness.model.traffic import Direction, RequestKind
from harness.model.verdict import Decision, DirectionVerdict, L7Decision, PolicyRef, PolicyVerdict

_DROP_REASONS = {
    Decision.DEFAULT_DENY: DropReason.POLICY_DENIED,
    Decision.DENY_RULE: DropReason.POLICY_DENY,
    Decision.AUTH: DropReason.AUTH_REQUIRED,
}
_FORBIDDEN = 403
_PERMISSION_DENIED = 7
_NXDOMAIN = 3
_REFUSED = 5


class Route(Struct, frozen=True):
    """Where a simulated probe goes: both ends as flows show them, the tuple after service translation, and who would answer."""

    five_tuple: FiveTuple
    dialled: FiveTuple
    source: FlowEndpoint
    destination: FlowEndpoint
    source_node: str
    destination_node: str
    server: str
    serve: str | None
    """What is spoken at the port; None where nobody listens."""
    service: str = ""
    resolves: bool = True
    """Of a lookup: whether the name exists."""


def simulate(probe: Probe, route: Route, verdict: PolicyVerdict, now: int, *, audit: bool = False) -> tuple[ProbeResult, tuple[Flow, ...]]:
    """The result and the flows, at the time `now` (ns since the epoch). With `audit`, what policy drops at L3/L4 is let through."""
    flows = tuple(_flows(probe, route, verdict, now, audit=audit))
    if any(flow.dropped and flow.l7 is None for flow in flows):
        return _result(probe, route, now, Ending.STOPPED), flows
    if verdict.l7 is L7Decision.DENY:
        return _denied_at_l7(probe, route, now), flows
    return _arrived(probe, route, now), flows


def _arrived(probe: Probe, route: Route, now: int) -> ProbeResult:
    if route.serve is None:
        return _result(probe, route, now, Ending.REFUSED)
    if route.serve == "sink":
        return _result(probe, route, now, Ending.TIMEOUT, server_saw=True)
    kind = probe.request.kind if probe.request else None
    status = (
        {RequestKind.HTTP: 200, RequestKind.GRPC: 0, RequestKind.LOOKUP: 0 if route.resolves else _NXDOMAIN}.get(kind) if kind else None
    )
    return _result(probe, route, now, Ending.ANSWERED, server=route.server, nonce=probe.nonce, status=status, server_saw=True)


def _denied_at_l7(probe: Probe, route: Route, now: int) -> ProbeResult:
    kind = probe.spoken.kind if probe.spoken else RequestKind.HTTP
    if kind is RequestKind.TLS:
        return _result(probe, route, now, Ending.RESET)
    status = {RequestKind.GRPC: _PERMISSION_DENIED, RequestKind.LOOKUP: _REFUSED}.get(kind, _FORBIDDEN)
    return _result(probe, route, now, Ending.ANSWERED, status=status)


def _result(
    probe: Probe,
    route: Route,
    now: int,
    ending: Ending,
    *,
    server: str = "",
    nonce: str = "",
    status: int | None = None,
    server_saw: bool = False,
) -> ProbeResult:
    return ProbeResult(
        id=probe.id,
        ending=ending,
        started=now,
        ended=now,
        five_tuple=route.dialled,
        server=server,
        nonce=nonce,
        status=status,
        server_saw=server_saw,
        detail="simulated",
    )


def _flows(probe: Probe, route: Route, verdict: PolicyVerdict, now: int, *, audit: bool) -> Iterator[Flow]:
    """Egress is asked before ingress; a drop at the first ends the packet's way."""
    sides = ((Direction.EGRESS, verdict.egress, route.source_node), (Direction.INGRESS, verdict.ingress, route.destination_node))
    seen = False
    for direction, side, node in sides:
        if side.decision is Decision.NOT_APPLICABLE:
            continue
        seen = True
        drops = side.decision in _DROP_REASONS
        yield _verdict_flow(route, direction, side, node, now, audit=audit)
        if drops and not audit:
            yield _drop_flow(route, direction, side, node, now)
            return
        if side.redirected and probe.spoken is not None:
            yield _l7_flow(probe, route, direction, side, node, now)
            if side.l7 is L7Decision.DENY:
                return
    if not seen:
        yield _flow(route, Direction.EGRESS, FlowVerdict.FORWARDED, EventType.TRACE, route.source_node, now)


def _verdict_flow(route: Route, direction: Direction, side: DirectionVerdict, node: str, now: int, *, audit: bool) -> Flow:
    """The policy-verdict event; where no policy is enforced Cilium sends only a trace."""
    if not side.enforced and side.decision is Decision.ALLOW:
        return _flow(route, direction, FlowVerdict.FORWARDED, EventType.TRACE, node, now)
    reason = _DROP_REASONS.get(side.decision)
    if reason is None:
        word = FlowVerdict.REDIRECTED if side.redirected else FlowVerdict.FORWARDED
        return _flow(route, direction, word, EventType.POLICY_VERDICT, node, now, allowed=_policies(side))
    word = FlowVerdict.AUDIT if audit else FlowVerdict.DROPPED
    denied = _policies(side) if reason is DropReason.POLICY_DENY else ()
    return _flow(route, direction, word, EventType.POLICY_VERDICT, node, now, reason=0 if audit else reason, denied=denied)


def _drop_flow(route: Route, direction: Direction, side: DirectionVerdict, node: str, now: int) -> Flow:
    return _flow(route, direction, FlowVerdict.DROPPED, EventType.DROP, node, now, reason=_DROP_REASONS[side.decision])


def _l7_flow(probe: Probe, route: Route, direction: Direction, side: DirectionVerdict, node: str, now: int) -> Flow:
    request = probe.spoken
    assert request is not None  # noqa: S101 -- only requests meet L7 rules
    lookup = request.kind is RequestKind.LOOKUP
    denied = side.l7 is L7Decision.DENY
    record = L7Record(
        kind="dns" if lookup else "http",
        type=1,
        code=_FORBIDDEN if denied and not lookup else 0,
        rcode=_REFUSED if denied and lookup else 0,
        method=request.method,
        url=request.path,
        query=request.name if lookup else "",
        headers=request.headers,
    )
    word = FlowVerdict.DROPPED if denied else FlowVerdict.FORWARDED
    return _flow(route, direction, word, EventType.L7, node, now, l7=record)


def _flow(
    route: Route,
    direction: Direction,
    verdict: FlowVerdict,
    event: EventType,
    node: str,
    now: int,
    *,
    reason: int = 0,
    allowed: tuple[PolicyRef, ...] = (),
    denied: tuple[PolicyRef, ...] = (),
    l7: L7Record | None = None,
) -> Flow:
    egress = direction is Direction.EGRESS
    return Flow(
        time=now,
        verdict=verdict,
        five_tuple=route.five_tuple,
        direction=direction,
        drop_reason=reason,
        source=route.source,
        destination=route.destination,
        event_type=event,
        sub_type=reason if event is EventType.DROP else 0,
        is_reply=None if event is EventType.DROP else False,
        node=node,
        egress_allowed_by=allowed if egress else (),
        ingress_allowed_by=() if egress else allowed,
        egress_denied_by=denied if egress else (),
        ingress_denied_by=() if egress else denied,
        l7=l7,
        destination_service=route.service,
    )


def _policies(side: DirectionVerdict) -> tuple[PolicyRef, ...]:
    """The policies behind the deciding rules; a rule that Cilium adds itself belongs to none that a user could name."""
    return tuple(dict.fromkeys(rule.policy for rule in side.rules if rule.policy.kind != "reserved"))
