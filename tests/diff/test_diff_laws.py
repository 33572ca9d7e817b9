"""Laws of `harness diff` on random worlds: nothing of what changes is left out, told twice, or untrue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.diff.compare import Change, Difference, compare
from harness.diff.cover import boxes
from harness.diff.judgement import Effect, Judge, Judgement
from harness.diff.naming import Naming, ports_text
from harness.diff.peers import names_of
from harness.model.cluster import ClusterState
from harness.model.traffic import Entity, EntityName, External, Peer, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import Decision, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.reach import Reach
from tests.policy.policy_worlds import ADDRESSES, PORTS, Document, cnp, evaluator, law, ports, repositories, states

Sides = tuple[Evaluator, Evaluator]
ASKED = [(Protocol.TCP, each) for each in PORTS] + [(Protocol.UDP, 53), (Protocol.UDP, 9), (Protocol.ICMP, 8), (Protocol.ICMPV6, 1)]
REQUESTS = (Request(RequestKind.HTTP, "GET", "/x"), Request(RequestKind.HTTP, "GET", "/y"), Request(RequestKind.TLS, name="x.io"))


@st.composite
def sides(draw: st.DrawFn, *, same_state: bool = True) -> Sides:
    state = draw(states())
    old: list[Document] = draw(repositories())
    new: list[Document] = draw(st.one_of(repositories(), st.just(old[1:]), st.just([*old, *draw(repositories())][:4])))
    return evaluator(*old, state=state), evaluator(*new, state=state if same_state else draw(states()))


def covering(found: Difference, source: Peer, target: Peer, protocol: Protocol, port: int) -> list[Change]:
    return [
        each
        for each in found.changes
        if source in each.sources
        and target in each.targets
        and any(at.protocol is protocol and at.first <= port <= at.last for at in each.ports)
    ]


def stands_for(found: Difference, address: str, model: Evaluator, other: Evaluator) -> External:
    """The address among those compared that is as this one: of the same identity on both sides."""

    def key(text: str) -> tuple[int, int]:
        return model.identities.of_address(text), other.identities.of_address(text)

    return next(each for each in found.peers.world if key(each.address) == key(address))


def flows(found: Difference, old: Evaluator, new: Evaluator) -> Iterator[tuple[Peer, Peer, Peer, Peer]]:
    """Pairs of peers, and who stands for them."""
    known: tuple[Peer, ...] = (*found.peers.pods, *found.peers.entities)
    mine: dict[Peer, Peer] = {each: each for each in known}
    mine |= {External(each): stands_for(found, each, old, new) for each in ADDRESSES}
    for source, like_source in mine.items():
        for target, like_target in mine.items():
            yield source, target, like_source, like_target


def brute(model: Evaluator, source: Peer, target: Peer, protocol: Protocol, port: int) -> tuple[Reach, bool]:
    """What the evaluator says of one flow: its cell, and whether only authentication is missing."""
    verdict = model.verdict(Traffic(source, target, protocol, port))
    decisions = [verdict.egress.decision, verdict.ingress.decision]
    denying = {each for each in decisions if each.denies}
    if denying:
        return Reach.DENY, denying == {Decision.AUTH}
    for decision, reach in ((Decision.ERROR, Reach.ERROR), (Decision.UNKNOWN, Reach.UNKNOWN)):
        if decision in decisions:
            return reach, False
    return Reach.CONDITIONAL if verdict.egress.redirected or verdict.ingress.redirected else Reach.ALLOW, False


@law(40)
@given(sides(same_state=False))
def test_each_flow_that_changes_is_in_one_change_and_no_other_is_in_any(both: Sides) -> None:
    old, new = both
    found = compare(old, new)
    for source, target, like_source, like_target in flows(found, old, new):
        for protocol, port in ASKED:
            before, after = (brute(model, source, target, protocol, port) for model in both)
            changes = covering(found, like_source, like_target, protocol, port)
            flow = f"{source} -> {target}:{port}/{protocol}"
            assert len(changes) <= 1, f"{flow} is told {len(changes)} times"
            if changes:
                assert (changes[0].old.reach, changes[0].old.unauthenticated) == before, flow
                assert (changes[0].new.reach, changes[0].new.unauthenticated) == after, flow
                assert changes[0].old != changes[0].new
            else:
                assert before == after, f"{flow} is not told"


@law(40)
@given(sides())
def test_what_is_not_told_or_said_to_be_allowed_denies_no_request_that_passed(both: Sides) -> None:
    old, new = both
    found = compare(old, new)
    for source, target, like_source, like_target in flows(found, old, new):
        for port in (80, 8080):
            changes = covering(found, like_source, like_target, Protocol.TCP, port)
            for request in REQUESTS:
                before, after = (model.verdict(Traffic(source, target, Protocol.TCP, port, request)).verdict for model in both)
                if not changes:
                    assert before is after
                elif changes[0].effect is Effect.ALLOWED:
                    assert not (before is Verdict.ALLOW and after is Verdict.DENY)
                elif changes[0].effect is Effect.DENIED:
                    assert not (before is Verdict.DENY and after is Verdict.ALLOW)


@law(30)
@given(states(), repositories())
def test_policies_differ_from_themselves_in_nothing(state: ClusterState, policies: list[Document]) -> None:
    assert compare(evaluator(*policies, state=state), evaluator(*reversed(policies), state=state)).changes == ()


@law(30)
@given(sides())
def test_a_difference_backwards_is_its_opposite(both: Sides) -> None:
    old, new = both
    there, back = compare(old, new), compare(new, old)
    opposite = {Effect.ALLOWED: Effect.DENIED, Effect.DENIED: Effect.ALLOWED, Effect.CHANGED: Effect.CHANGED}

    def kinds(found: Difference, *, turned: bool) -> set[tuple[Judgement, Judgement, Effect]]:
        return {(each.new, each.old, opposite[each.effect]) if turned else (each.old, each.new, each.effect) for each in found.changes}

    assert kinds(there, turned=False) == kinds(back, turned=True)


def compared_with_names(both: Sides) -> Difference:
    names = names_of(each.repository for each in both)
    old, new = (Evaluator(each.state, each.repository, names.learned) for each in both)
    return compare(old, new, names.shown)


@law(40)
@given(sides(), st.data())
def test_the_words_for_peers_mean_exactly_these_peers(both: Sides, data: st.DataObject) -> None:
    found = compared_with_names(both)
    wanted = data.draw(st.sets(st.sampled_from(found.peers.all), min_size=1))
    phrases = Naming(found.peers, both[1].state).phrases(frozenset(wanted))
    meant = [peer for each in phrases for peer in each.means]
    assert len(meant) == len(set(meant)), "no peer is named twice"
    assert set(meant) == wanted
    assert len({each.text for each in phrases}) == len(phrases)


@law(60)
@given(sides(), st.data())
def test_different_sets_are_called_differently(both: Sides, data: st.DataObject) -> None:
    found = compared_with_names(both)
    naming = Naming(found.peers, both[1].state)
    one, other = (frozenset(data.draw(st.sets(st.sampled_from(found.peers.all), min_size=1))) for _ in range(2))
    assert (naming.text(one) == naming.text(other)) is (one == other)
    one_ports, other_ports = (frozenset(data.draw(st.sets(st.sampled_from(found.ports), min_size=1))) for _ in range(2))
    assert (ports_text(one_ports, found.ports) == ports_text(other_ports, found.ports)) is (one_ports == other_ports)


@law(60)
@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))))
def test_boxes_are_the_cells_and_do_not_overlap(cells: np.ndarray) -> None:
    covered = np.zeros(cells.shape, dtype=int)
    for box in boxes(cells):
        covered[np.ix_(box.first, box.second, box.third)] += 1
    assert (covered == cells).all()


@law(30)
@given(states(), repositories())
def test_a_cell_is_judged_as_one_flow_is(state: ClusterState, policies: list[Document]) -> None:
    model = evaluator(*policies, state=state)
    peers: list[Peer] = [*(pod.ref for pod in state.pods), Entity(EntityName.HOST), External(ADDRESSES[0])]
    judge = Judge(model, ASKED, peers)
    known: dict[Judgement, int] = {}
    numbers = judge.numbers(list(range(len(judge.reachability.classes))), lambda each: known.setdefault(each, len(known))).tolist()
    for source in peers:
        for target in peers:
            for at, port in enumerate(ASKED):
                cell = numbers[at][judge.reachability.number(source)][judge.reachability.number(target)]
                assert list(known)[cell] == judge.judgement(source, target, port)


def test_names_that_policies_learn_from_dns_are_compared() -> None:
    rule = {"toPorts": ports("443/TCP")}
    old = evaluator(cnp(egress=[{"toFQDNs": [{"matchPattern": "*.example.com"}], **rule}]))
    new = evaluator(cnp(egress=[{"toFQDNs": [{"matchName": "api.example.com"}], **rule}]))
    found = compared_with_names((old, new))
    (change,) = found.changes
    naming = Naming(found.peers, new.state)
    assert (naming.text(change.sources), naming.text(change.targets)) == ("a/web", "*.example.com (DNS)")
    assert change.effect is Effect.DENIED
