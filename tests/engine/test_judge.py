"""The verdict table of design 4, row by row and clause by clause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.cases.case import Action, Expectation, Party, PartyKind, Reason, Target
from harness.clusters.base import Observation
from harness.engine.judge import Evidence, judge
from harness.engine.outcome import Judgement, Outcome
from harness.errors import Location
from harness.model.flow import DropReason, EventType, FiveTuple, Flow, FlowVerdict, L7Record, LostEvents
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Direction, Family, Protocol, Request, RequestKind
from harness.model.verdict import PolicyRef

BACKEND = PolicyRef("CiliumNetworkPolicy", "shop", "backend")
OTHER = PolicyRef("CiliumNetworkPolicy", "shop", "other")
FIVE = FiveTuple(Protocol.TCP, "10.0.0.1", 40000, "10.0.0.2", 8080)
HTTP = Request(RequestKind.HTTP, "GET", "/")
GRPC = Request(RequestKind.GRPC, path="/shop.Orders/Place")
TLS = Request(RequestKind.TLS, name="shop.example")
LOOKUP = Request(RequestKind.LOOKUP, name="api.stripe.com")
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS


def expectation(action: Action, **more) -> Expectation:
    source, target = Party(PartyKind.ENDPOINT, "frontend"), Party(PartyKind.ENDPOINT, "backend")
    targets = (Target(target, 8080, Protocol.TCP, "backend:8080"),)
    return Expectation(action, "frontend -> backend:8080", (source,), targets, Location("test_x.yaml", 1), **more)


def flow(verdict: FlowVerdict, direction: Direction | None = INGRESS, **more) -> Flow:
    return Flow(1, verdict, FIVE, direction, event_type=more.pop("event_type", EventType.POLICY_VERDICT), **more)


def dropped(direction: Direction | None = INGRESS, reason: int = DropReason.POLICY_DENIED, **more) -> Flow:
    return flow(FlowVerdict.DROPPED, direction, drop_reason=reason, **more)


FORWARDED = flow(FlowVerdict.FORWARDED)
DEFAULT_DENY = dropped()
DENY_RULE = dropped(reason=DropReason.POLICY_DENY, ingress_denied_by=(BACKEND,))
L7_DENIED = flow(FlowVerdict.DROPPED, event_type=EventType.L7, l7=L7Record("http", 1, code=403))
REDIRECTED = flow(FlowVerdict.REDIRECTED, ingress_allowed_by=(BACKEND,))
AUDITED = flow(FlowVerdict.AUDIT)


def probe(request: Request | None = None, serve: str = "auto", **more) -> Probe:
    return Probe(**{
        "id": 1,
        "site": Site("pod", "shop/frontend"),
        "protocol": Protocol.TCP,
        "family": Family.IPV4,
        "address": "10.0.0.2",
        "port": 8080,
        "nonce": "aa",
        "timeout": 1.0,
        "expected_servers": ("shop/backend",),
        "request": request,
        "serve": serve,
        **more,
    })


def seen(ending: Ending, *flows: Flow, sent: Probe | None = None, lost=(), flows_on: bool = True, **result) -> Observation:
    return Observation(sent or probe(), ProbeResult(1, ending, 0, 2, FIVE, **result), flows, tuple(lost), flows_on)


def answer(*flows: Flow, sent: Probe | None = None, lost=(), flows_on: bool = True, **result) -> Observation:
    result = {"server": "shop/backend", "nonce": "aa", "server_saw": True, **result}
    return seen(Ending.ANSWERED, *flows, sent=sent, lost=lost, flows_on=flows_on, **result)


def refusal(status: int, *flows: Flow, request: Request = HTTP, **more) -> Observation:
    """An answer that no server gave: a proxy's."""
    return seen(Ending.ANSWERED, *flows, sent=probe(request), status=status, **more)


def judged(
    action: Action,
    observation: Observation | None,
    *,
    lookup: Observation | None = None,
    alive: bool | None = True,
    baseline: str = "",
    flows_on: bool = True,
    **more,
) -> Judgement:
    return judge(
        Evidence(expectation(action, **more), observation, lookup, alive, "" if alive else "connection refused", baseline, flows_on)
    )


def row(outcome: Outcome, number: int, judgement: Judgement, *words: str) -> None:
    assert (judgement.outcome, judgement.row) == (outcome, number), judgement.why
    for word in words:
        assert word in judgement.why


ALLOW, DENY, AUDIT = Action.ALLOW, Action.DENY, Action.AUDIT
PASSED, FAILED, UNKNOWN = Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN


# Row 1


@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_1_a_baseline_that_did_not_hold_makes_it_unknown(action):
    good = answer(FORWARDED) if action is ALLOW else seen(Ending.STOPPED, DEFAULT_DENY)
    row(UNKNOWN, 1, judged(action, good, baseline="frontend -> backend failed"), "baseline", "frontend -> backend failed")


def test_row_1_a_deny_of_a_dead_target_proves_nothing():
    row(UNKNOWN, 1, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), alive=False), "not proven alive", "connection refused")


def test_row_1_a_deny_whose_target_was_not_asked_proves_nothing():
    row(UNKNOWN, 1, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), alive=None), "not proven alive")


def test_row_1_an_allow_whose_target_is_dead_is_not_failed_by_its_drop():
    row(UNKNOWN, 1, judged(ALLOW, seen(Ending.STOPPED, DEFAULT_DENY), alive=False), "not proven alive")


def test_an_allow_is_not_asked_for_proof_of_life_where_there_is_none():
    row(FAILED, 3, judged(ALLOW, seen(Ending.STOPPED, DEFAULT_DENY), alive=None))


def test_the_answer_itself_proves_the_target_alive():
    row(PASSED, 2, judged(ALLOW, answer(FORWARDED), alive=False))


def test_row_1_nothing_reported_for_the_probe():
    row(UNKNOWN, 1, judged(ALLOW, None), "reported nothing")


@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_1_a_broken_agent(action):
    row(UNKNOWN, 1, judged(action, seen(Ending.ERROR, DEFAULT_DENY, detail="exec: pod not found")), "exec: pod not found")


@pytest.mark.parametrize("action", [ALLOW, DENY])
@pytest.mark.parametrize("flows", [(), (FORWARDED,), (DEFAULT_DENY,)])
def test_row_1_refused_means_that_nobody_listens(action, flows):
    row(UNKNOWN, 1, judged(action, seen(Ending.REFUSED, *flows)), "refused", "10.0.0.2 port 8080")


@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_1_lost_events_in_the_window(action):
    good = answer(FORWARDED, lost=[LostEvents(3)]) if action is ALLOW else seen(Ending.STOPPED, DEFAULT_DENY, lost=[LostEvents(3)])
    row(UNKNOWN, 1, judged(action, good), "3 flow events were lost")


@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_1_an_answer_and_a_drop_contradict_each_other(action):
    row(UNKNOWN, 1, judged(action, answer(FORWARDED, DEFAULT_DENY)), "contradict")


@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_1_a_server_that_saw_a_dropped_probe_is_a_contradiction(action):
    row(UNKNOWN, 1, judged(action, seen(Ending.STOPPED, DEFAULT_DENY, server_saw=True)), "contradict")


def test_row_1_another_servers_answer_and_a_drop_contradict_each_other():
    row(UNKNOWN, 1, judged(DENY, answer(DEFAULT_DENY, server="shop/else", server_saw=False)), "contradict")


@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_1_an_audit_verdict_under_allow_or_deny(action):
    row(UNKNOWN, 1, judged(action, answer(AUDITED)), "AUDIT")


def test_row_1_a_stream_lost_after_flows_were_on():
    row(UNKNOWN, 1, judged(ALLOW, answer(flows_on=False)), "got lost")


# Row 2


def test_row_2_an_answer_that_flows_show_forwarded():
    row(PASSED, 2, judged(ALLOW, answer(FORWARDED)), "shop/backend")


def test_row_2_redirected_to_the_proxy_is_forwarded():
    row(PASSED, 2, judged(ALLOW, answer(REDIRECTED)))


@pytest.mark.parametrize("server", ["", "node-b"])
def test_row_2_a_ping_answers_with_its_nonce_whatever_is_served_there(server):
    sent = probe(Request(RequestKind.ICMP), protocol=Protocol.ICMP, port=8)
    row(PASSED, 2, judged(ALLOW, answer(FORWARDED, sent=sent, server=server, server_saw=False)))
    row(UNKNOWN, 7, judged(ALLOW, answer(FORWARDED, sent=sent, server=server, nonce="bb", server_saw=False)))


def test_row_2_a_sink_answers_by_having_seen_the_token():
    row(PASSED, 2, judged(ALLOW, seen(Ending.TIMEOUT, FORWARDED, sent=probe(serve="sink"), server_saw=True)))


def test_row_2_with_the_stated_status():
    row(PASSED, 2, judged(ALLOW, answer(FORWARDED, sent=probe(HTTP), status=200), status=200))


def test_row_2_by_the_stated_policy():
    row(PASSED, 2, judged(ALLOW, answer(REDIRECTED), by=BACKEND))


def test_row_2_by_a_policy_of_the_other_side_is_not_by_the_stated_side():
    row(UNKNOWN, 7, judged(ALLOW, answer(REDIRECTED), by=BACKEND, at=EGRESS), "no flow tells")


def test_row_2_audit_is_forwarded_with_an_audit_verdict():
    row(PASSED, 2, judged(AUDIT, answer(AUDITED)), "AUDIT")


# Row 3


def test_row_3_an_allow_that_was_dropped():
    row(FAILED, 3, judged(ALLOW, seen(Ending.STOPPED, DENY_RULE)), "dropped at ingress", "deny-rule", str(BACKEND))


def test_row_3_an_audit_that_was_dropped():
    row(FAILED, 3, judged(AUDIT, seen(Ending.STOPPED, DEFAULT_DENY)))


@pytest.mark.parametrize(
    "observation",
    [
        refusal(403, L7_DENIED),
        refusal(7, L7_DENIED, request=GRPC),
        refusal(5, L7_DENIED, request=LOOKUP),
        seen(Ending.RESET, L7_DENIED, sent=probe(TLS)),
        refusal(503, DEFAULT_DENY),
        refusal(504, DEFAULT_DENY),
        refusal(14, DEFAULT_DENY, request=GRPC),
    ],
    ids=["403", "PERMISSION_DENIED", "REFUSED", "reset", "503 with its drop", "504 with its drop", "UNAVAILABLE with its drop"],
)
def test_row_3_an_allow_denied_by_a_proxy_with_its_flow(observation):
    row(FAILED, 3, judged(ALLOW, observation))


@pytest.mark.parametrize(
    "observation",
    [
        refusal(403, REDIRECTED),
        refusal(7, REDIRECTED, request=GRPC),
        refusal(5, REDIRECTED, request=LOOKUP),
        seen(Ending.RESET, REDIRECTED, sent=probe(TLS)),
        refusal(503, REDIRECTED),
    ],
    ids=["403", "PERMISSION_DENIED", "REFUSED", "reset", "503"],
)
@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_7_a_proxys_denial_without_its_flow_is_unknown(action, observation):
    row(UNKNOWN, 7, judged(action, observation))


# Row 4


def test_row_4_dropped_without_an_answer():
    row(PASSED, 4, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY)), "default-deny")


@pytest.mark.parametrize("ending", [Ending.STOPPED, Ending.TIMEOUT, Ending.UNREACHABLE])
def test_row_4_however_the_silence_ended(ending):
    row(PASSED, 4, judged(DENY, seen(ending, DEFAULT_DENY)))


def test_row_4_at_the_stated_side_for_the_stated_reason_by_the_stated_policy():
    row(PASSED, 4, judged(DENY, seen(Ending.STOPPED, DENY_RULE), at=INGRESS, reasons=frozenset({Reason.DENY_RULE}), by=BACKEND))


def test_row_4_for_one_of_several_reasons():
    either = frozenset({Reason.DEFAULT_DENY, Reason.DENY_RULE})
    row(PASSED, 4, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), reasons=either))


def test_row_4_missing_authentication():
    row(PASSED, 4, judged(DENY, seen(Ending.TIMEOUT, dropped(reason=DropReason.AUTH_REQUIRED)), reasons=frozenset({Reason.AUTH})))


@pytest.mark.parametrize(
    "observation",
    [
        refusal(403, REDIRECTED, L7_DENIED),
        refusal(7, L7_DENIED, request=GRPC),
        refusal(5, L7_DENIED, request=LOOKUP),
        seen(Ending.RESET, L7_DENIED, sent=probe(TLS)),
    ],
    ids=["403", "PERMISSION_DENIED", "REFUSED", "reset"],
)
def test_row_4_the_l7_answer_that_the_reason_implies(observation):
    row(PASSED, 4, judged(DENY, observation, reasons=frozenset({Reason.L7})))


def test_row_4_the_policy_of_an_l7_denial_is_the_one_that_sent_it_to_the_proxy():
    row(PASSED, 4, judged(DENY, refusal(403, REDIRECTED, L7_DENIED), by=BACKEND, status=403))


@pytest.mark.parametrize("stated", [7, "7", "PERMISSION_DENIED", "permission_denied"])
def test_row_4_a_grpc_status_by_number_or_name(stated):
    row(PASSED, 4, judged(DENY, refusal(7, L7_DENIED, request=GRPC), status=stated))


@pytest.mark.parametrize("status", [503, 504])
def test_row_4_a_proxy_that_could_not_reach_a_dropped_target(status):
    observation = refusal(status, flow(FlowVerdict.REDIRECTED, EGRESS), DEFAULT_DENY)
    row(PASSED, 4, judged(DENY, observation, at=INGRESS, reasons=frozenset({Reason.DEFAULT_DENY})))


def test_row_4_an_undeclared_port_is_proven_by_its_drop():
    observation = seen(Ending.STOPPED, DEFAULT_DENY, sent=probe(expected_servers=()))
    row(PASSED, 4, judged(DENY, observation, alive=None, undeclared=True))


def test_row_4_the_first_side_that_drops_counts():
    late = replace(dropped(INGRESS), time=9)
    row(PASSED, 4, judged(DENY, seen(Ending.STOPPED, late, dropped(EGRESS)), at=EGRESS))


# Row 5


def test_row_5_dropped_at_another_side():
    row(FAILED, 5, judged(DENY, seen(Ending.STOPPED, dropped(EGRESS)), at=INGRESS), "at egress", "the side stated is ingress")


def test_row_5_dropped_for_another_reason():
    row(
        FAILED, 5, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), reasons=frozenset({Reason.DENY_RULE})), "the reason stated is deny-rule"
    )


def test_row_5_dropped_at_l4_where_l7_was_stated():
    row(FAILED, 5, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), reasons=frozenset({Reason.L7})))


def test_row_5_dropped_by_another_policy():
    row(FAILED, 5, judged(DENY, seen(Ending.STOPPED, DENY_RULE), by=OTHER), str(BACKEND), f"the policy stated is {OTHER}")


def test_row_5_no_policy_decides_a_default_deny():
    row(FAILED, 5, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), by=BACKEND), "no policy decides")


def test_row_5_another_status():
    row(FAILED, 5, judged(DENY, refusal(403, L7_DENIED), status=404), "the status stated is 404, and it was 403")


def test_row_5_a_silent_drop_where_a_status_was_stated():
    row(FAILED, 5, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), status=403), "there was none")


def test_row_5_a_drop_that_is_no_verdict_of_policy():
    row(FAILED, 5, judged(DENY, seen(Ending.TIMEOUT, dropped(reason=151))), "drop reason 151", "no verdict of policy")


# Row 6


def test_row_6_a_deny_that_was_answered():
    row(FAILED, 6, judged(DENY, answer(FORWARDED)), "nothing denied it")


def test_row_6_a_deny_whose_sink_saw_the_token():
    row(FAILED, 6, judged(DENY, seen(Ending.TIMEOUT, FORWARDED, sent=probe(serve="sink"), server_saw=True)))


# Row 7


@pytest.mark.parametrize("action", [ALLOW, DENY, AUDIT])
@pytest.mark.parametrize("ending", [Ending.TIMEOUT, Ending.RESET, Ending.UNREACHABLE, Ending.STOPPED])
@pytest.mark.parametrize("flows", [(), (FORWARDED,)], ids=["no flow", "forwarded"])
def test_row_7_silence_without_a_drop(action, ending, flows):
    row(UNKNOWN, 7, judged(action, seen(ending, *flows)))


@pytest.mark.parametrize("action", [ALLOW, DENY, AUDIT])
def test_row_7_an_answer_that_no_flow_shows(action):
    row(UNKNOWN, 7, judged(action, answer()), "no flow shows it forwarded")


@pytest.mark.parametrize("action", [ALLOW, DENY])
def test_row_7_flows_of_replies_show_nothing_forwarded(action):
    row(UNKNOWN, 7, judged(action, answer(replace(FORWARDED, is_reply=True))))


@pytest.mark.parametrize("action", [ALLOW, DENY])
@pytest.mark.parametrize("wrong", [{"server": "shop/else"}, {"nonce": "bb"}], ids=["server", "nonce"])
def test_row_7_an_answer_that_is_not_the_intended_one(action, wrong):
    row(UNKNOWN, 7, judged(action, answer(FORWARDED, **wrong)), "the intended is shop/backend")


def test_row_7_allowed_by_another_policy():
    row(UNKNOWN, 7, judged(ALLOW, answer(REDIRECTED), by=OTHER), f"allowed by {BACKEND}, not by {OTHER}")


def test_row_7_allowed_and_the_agent_does_not_report_by_whom():
    row(UNKNOWN, 7, judged(ALLOW, answer(FORWARDED), by=BACKEND), "no flow tells which policy")


def test_row_7_denied_and_the_agent_does_not_report_by_whom():
    observation = seen(Ending.STOPPED, dropped(reason=DropReason.POLICY_DENY))
    row(UNKNOWN, 7, judged(DENY, observation, by=BACKEND), "do not tell")


def test_row_7_the_agent_does_not_tell_the_side():
    row(UNKNOWN, 7, judged(DENY, seen(Ending.STOPPED, dropped(None)), at=INGRESS), "at which side")


def test_row_7_the_agent_does_not_tell_the_reason():
    row(UNKNOWN, 7, judged(DENY, seen(Ending.STOPPED, dropped(reason=0)), reasons=frozenset({Reason.DEFAULT_DENY})), "which reason")


def test_row_7_an_answer_with_another_status_than_stated():
    row(UNKNOWN, 7, judged(ALLOW, answer(FORWARDED, sent=probe(HTTP), status=500), status=200), "status 500")


def test_row_7_audit_without_an_audit_verdict():
    row(UNKNOWN, 7, judged(AUDIT, answer(FORWARDED)), "no flow carries the AUDIT verdict")


def test_row_7_a_proxys_403_with_a_drop_at_l4_only():
    row(UNKNOWN, 7, judged(DENY, refusal(403, DEFAULT_DENY)))


def test_row_7_the_server_got_it_but_its_answer_was_lost():
    row(UNKNOWN, 7, judged(ALLOW, seen(Ending.TIMEOUT, FORWARDED, server_saw=True)), "its answer was lost")


# The lookup before a named target

ASKED = probe(LOOKUP, protocol=Protocol.UDP, port=53, expected_servers=("kube-system/coredns",))
DNS_DENIED = flow(FlowVerdict.DROPPED, EGRESS, event_type=EventType.L7, l7=L7Record("dns", 1, query="api.stripe.com"))


def resolved(**more) -> Observation:
    return answer(FORWARDED, sent=ASKED, server="kube-system/coredns", status=0, **more)


def test_a_resolved_name_leaves_the_verdict_to_the_probe():
    row(PASSED, 2, judged(ALLOW, answer(FORWARDED), lookup=resolved()))
    row(PASSED, 4, judged(DENY, seen(Ending.STOPPED, DEFAULT_DENY), lookup=resolved()))


@pytest.mark.parametrize(
    "lookup",
    [seen(Ending.STOPPED, dropped(EGRESS), sent=ASKED), seen(Ending.ANSWERED, DNS_DENIED, sent=ASKED, status=5)],
    ids=["dropped", "REFUSED with its flow"],
)
def test_a_denied_lookup_denies_the_expectation_at_egress(lookup):
    row(PASSED, 4, judged(DENY, None, lookup=lookup, at=EGRESS), "the lookup of api.stripe.com")
    row(FAILED, 5, judged(DENY, None, lookup=lookup, at=INGRESS))
    row(FAILED, 3, judged(ALLOW, None, lookup=lookup))


@pytest.mark.parametrize("action", [ALLOW, DENY])
@pytest.mark.parametrize(
    ("lookup", "word"),
    [
        (seen(Ending.ANSWERED, FORWARDED, sent=ASKED, status=3), "NXDOMAIN"),
        (seen(Ending.ANSWERED, FORWARDED, sent=ASKED, status=2), "SERVFAIL"),
        (seen(Ending.ANSWERED, FORWARDED, sent=ASKED, status=5), "REFUSED"),
        (seen(Ending.TIMEOUT, FORWARDED, sent=ASKED), "timeout"),
    ],
    ids=["NXDOMAIN", "SERVFAIL", "REFUSED without its flow", "silence"],
)
def test_a_lookup_that_failed_without_a_flow_is_unknown(action, lookup, word):
    row(UNKNOWN, 7, judged(action, None, lookup=lookup), word)


def test_a_lookup_in_whose_window_events_were_lost_is_unknown():
    lookup = seen(Ending.STOPPED, dropped(EGRESS), sent=ASKED, lost=[LostEvents(1)])
    row(UNKNOWN, 1, judged(DENY, None, lookup=lookup), "the lookup")


def test_a_resolved_name_whose_probe_was_never_reported_is_unknown():
    row(UNKNOWN, 7, judged(ALLOW, None, lookup=resolved()), "reported nothing")


def test_a_lookup_that_is_asked_for_itself_must_find_the_name():
    row(PASSED, 2, judged(ALLOW, answer(FORWARDED, sent=probe(LOOKUP), status=0)))
    row(UNKNOWN, 7, judged(ALLOW, answer(FORWARDED, sent=probe(LOOKUP), status=3)))


# Packets only


def test_packets_only_an_answer_passes_an_allow():
    row(PASSED, 2, judged(ALLOW, answer(flows_on=False), flows_on=False), "packets only")


def test_packets_only_silence_of_a_living_target_passes_a_deny():
    row(PASSED, 4, judged(DENY, seen(Ending.TIMEOUT, flows_on=False), flows_on=False))


def test_packets_only_an_answer_fails_a_deny():
    row(FAILED, 6, judged(DENY, answer(flows_on=False), flows_on=False))


def test_packets_only_silence_of_a_living_target_fails_an_allow():
    row(FAILED, 3, judged(ALLOW, seen(Ending.TIMEOUT, flows_on=False), flows_on=False))


def test_packets_only_silence_of_a_target_that_nobody_asked_is_unknown_under_allow():
    row(UNKNOWN, 7, judged(ALLOW, seen(Ending.TIMEOUT, flows_on=False), alive=None, flows_on=False))


@pytest.mark.parametrize(
    "stated", [{"at": INGRESS}, {"reasons": frozenset({Reason.DEFAULT_DENY})}, {"by": BACKEND}], ids=["at", "reason", "by"]
)
def test_packets_only_nothing_beside_the_silence_can_be_verified(stated):
    row(UNKNOWN, 7, judged(DENY, seen(Ending.TIMEOUT, flows_on=False), flows_on=False, **stated), "do not tell")


def test_packets_only_a_proxys_denial_names_its_reason_itself():
    row(PASSED, 4, judged(DENY, refusal(403, flows_on=False), flows_on=False, reasons=frozenset({Reason.L7}), status=403))


def test_packets_only_an_undeclared_port_cannot_be_proven():
    observation = seen(Ending.TIMEOUT, sent=probe(expected_servers=()), flows_on=False)
    row(UNKNOWN, 7, judged(DENY, observation, alive=None, flows_on=False, undeclared=True))


# Laws

policies = st.lists(st.sampled_from([BACKEND, OTHER]), max_size=2).map(tuple)
flows = st.builds(
    Flow,
    time=st.integers(0, 3),
    verdict=st.sampled_from(FlowVerdict),
    five_tuple=st.just(FIVE),
    direction=st.sampled_from([None, EGRESS, INGRESS]),
    drop_reason=st.sampled_from([0, 133, 181, 189, 151]),
    event_type=st.sampled_from([0, 1, 4, 5, 129]),
    is_reply=st.sampled_from([None, True, False]),
    egress_allowed_by=policies,
    ingress_allowed_by=policies,
    egress_denied_by=policies,
    ingress_denied_by=policies,
    l7=st.sampled_from([None, L7Record("http", 1)]),
)


@st.composite
def observations(draw, request: Request | None = None) -> Observation:
    asked = request or draw(st.sampled_from([None, HTTP, GRPC, TLS, LOOKUP, Request(RequestKind.ICMP)]))
    icmp = asked is not None and asked.kind is RequestKind.ICMP
    sent = probe(asked, draw(st.sampled_from(["auto", "sink"])), protocol=Protocol.ICMP if icmp else Protocol.TCP)
    result = ProbeResult(
        1,
        draw(st.sampled_from(Ending)),
        0,
        2,
        FIVE,
        server=draw(st.sampled_from(["", "shop/backend", "shop/else"])),
        nonce=draw(st.sampled_from(["", "aa", "bb"])),
        status=draw(st.sampled_from([None, 0, 2, 3, 5, 7, 14, 200, 403, 503])),
        server_saw=draw(st.booleans()),
    )
    lost = draw(st.lists(st.just(LostEvents(1)), max_size=1))
    return Observation(sent, result, tuple(draw(st.lists(flows, max_size=4))), tuple(lost), draw(st.booleans()))


expectations = st.builds(
    expectation,
    action=st.sampled_from(Action),
    reasons=st.frozensets(st.sampled_from(Reason), max_size=2),
    at=st.sampled_from([None, EGRESS, INGRESS]),
    by=st.sampled_from([None, BACKEND, OTHER]),
    status=st.sampled_from([None, 0, 7, 403, "PERMISSION_DENIED"]),
    undeclared=st.booleans(),
)
evidence = st.builds(
    Evidence,
    expectation=expectations,
    observation=st.none() | observations(),
    lookup=st.none() | observations(LOOKUP),
    alive=st.sampled_from([None, True, False]),
    alive_why=st.just(""),
    baseline=st.sampled_from(["", "it failed"]),
    flows_on=st.booleans(),
)

OUTCOME_OF_ROW = {1: UNKNOWN, 2: PASSED, 3: FAILED, 4: PASSED, 5: FAILED, 6: FAILED, 7: UNKNOWN}


@given(evidence)
def test_every_evidence_gives_exactly_one_row_and_says_why(given_evidence):
    judgement = judge(given_evidence)
    assert OUTCOME_OF_ROW[judgement.row] is judgement.outcome
    assert judgement.why


@given(evidence)
def test_with_flows_on_a_deny_never_passes_without_a_drop_flow(given_evidence):
    judgement = judge(given_evidence)
    if given_evidence.expectation.action is DENY and judgement.outcome is PASSED and given_evidence.flows_on:
        both = (given_evidence.lookup, given_evidence.observation)
        assert any(each.is_reply is not True or each.l7 for one in both if one for each in one.flows if each.dropped)


@given(evidence)
def test_an_allow_never_passes_without_an_answer(given_evidence):
    judgement = judge(given_evidence)
    if given_evidence.expectation.action is not DENY and judgement.outcome is PASSED:
        result = given_evidence.observation.result
        sink = given_evidence.observation.probe.serve == "sink" and result.server_saw
        named = result.server == "shop/backend" or given_evidence.observation.probe.protocol is Protocol.ICMP
        assert sink or (result.ending is Ending.ANSWERED and result.nonce == "aa" and named)


@given(evidence)
def test_nothing_passes_while_events_are_lost_or_the_baseline_failed_or_the_target_is_dead(given_evidence):
    judgement = judge(given_evidence)
    if judgement.outcome is PASSED:
        assert not given_evidence.baseline
        assert not any(one.lost for one in (given_evidence.lookup, given_evidence.observation) if one)
        assert given_evidence.alive is not False or given_evidence.expectation.action is not DENY


@given(evidence.filter(lambda each: each.flows_on))
def test_with_flows_on_discarding_them_leaves_nothing_but_unknown(given_evidence):
    bare = replace(
        given_evidence,
        observation=given_evidence.observation and replace(given_evidence.observation, flows=()),
        lookup=given_evidence.lookup and replace(given_evidence.lookup, flows=()),
    )
    assert judge(bare).outcome is UNKNOWN
