"""The plan: what is sent for the exchanges that are wanted, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.model.probe import Site
from harness.model.traffic import Family, Protocol, Request, RequestKind
from harness.probes.plan import ICMP_ECHO, Exchange, Server, Stamp, again, plan, rounds

FRONTEND, BACKEND = Site("pod", "shop/frontend"), Site("pod", "shop/backend")
SERVER = Server("shop/backend", BACKEND, "10.0.0.2", Protocol.TCP, 8080)
DIRECT = Exchange(FRONTEND, "10.0.0.2", 8080, Protocol.TCP, Family.IPV4, 1.0, (SERVER,))
LOOKUP = Exchange(
    FRONTEND, "10.96.0.10", 53, Protocol.UDP, Family.IPV4, 1.0, request=Request(RequestKind.LOOKUP, name="api.stripe.com"), serve="dns"
)
PING = replace(
    DIRECT,
    protocol=Protocol.ICMP,
    port=ICMP_ECHO,
    servers=(replace(SERVER, protocol=Protocol.ICMP, port=ICMP_ECHO),),
    request=Request(RequestKind.ICMP),
)


def stamp() -> Stamp:
    return Stamp.of("c0ffee00")


def test_an_exchange_becomes_a_probe_from_its_site_to_its_address():
    made = plan([DIRECT], stamp(), liveness=False)
    (planned,) = made.exchanges
    assert (planned.probe.site, planned.probe.address, planned.probe.port) == (FRONTEND, "10.0.0.2", 8080)
    assert planned.probe.expected_servers == ("shop/backend",)
    assert made.rounds == ((planned.probe,),)
    assert planned.probe.alternatives == ()


def test_a_server_proves_its_life_from_inside_itself():
    (planned,) = plan([DIRECT], stamp(), liveness=True).exchanges
    (proof,) = planned.life
    assert proof.liveness
    assert (proof.site, proof.address, proof.port, proof.expected_servers) == (BACKEND, "10.0.0.2", 8080, ("shop/backend",))


def test_a_server_is_asked_for_its_life_once_however_many_want_it():
    made = plan([DIRECT, replace(DIRECT, site=Site("pod", "shop/intruder"))], stamp(), liveness=True)
    assert made.exchanges[0].life == made.exchanges[1].life
    assert sum(probe.liveness for round_ in made.rounds for probe in round_) == 1


def test_every_backend_of_a_service_proves_its_life_and_may_answer():
    backends = tuple(Server(f"shop/backend-{i}", Site("pod", f"shop/backend-{i}"), f"10.0.0.{i}", Protocol.TCP, 8080) for i in (2, 3))
    (planned,) = plan([replace(DIRECT, address="10.96.0.7", port=80, servers=backends)], stamp(), liveness=True).exchanges
    assert [proof.address for proof in planned.life] == ["10.0.0.2", "10.0.0.3"]
    assert planned.probe.expected_servers == ("shop/backend-2", "shop/backend-3")
    assert {("10.0.0.2", 8080), ("10.0.0.3", 8080), ("10.0.0.2", 80), ("10.96.0.7", 8080)} <= set(planned.probe.alternatives)
    assert ("10.96.0.7", 80) not in planned.probe.alternatives


def test_a_lookup_goes_a_round_before_the_probe_that_needs_it():
    made = plan([DIRECT, replace(DIRECT, lookup=LOOKUP)], stamp(), liveness=False)
    plain, named = made.exchanges
    assert named.lookup is not None
    assert made.rounds == ((plain.probe, named.lookup), (named.probe,))


def test_of_icmp_only_one_per_pair_is_in_flight():
    made = plan([PING, PING, replace(PING, site=Site("pod", "shop/intruder"))], stamp(), liveness=False)
    first, second, other = (planned.probe for planned in made.exchanges)
    assert made.rounds == ((first, other), (second,))


def test_sending_again_takes_fresh_numbers_and_nonces_and_keeps_the_proofs():
    marks = stamp()
    (planned,) = plan([replace(DIRECT, lookup=LOOKUP)], marks, liveness=True).exchanges
    fresh = again(planned, marks)
    assert fresh.life == planned.life
    assert fresh.probe.id > planned.probe.id
    assert fresh.probe.nonce != planned.probe.nonce
    assert rounds([fresh]) == ((fresh.lookup,), (fresh.probe,))


exchanges = st.lists(
    st.builds(
        lambda base, site, address, lookup: replace(base, site=Site("pod", site), address=address, lookup=lookup),
        st.sampled_from([DIRECT, PING]),
        st.sampled_from(["a/x", "a/y"]),
        st.sampled_from(["10.0.0.2", "10.0.0.3"]),
        st.sampled_from([None, LOOKUP]),
    ),
    max_size=8,
)


@given(exchanges, st.booleans())
def test_every_probe_is_sent_exactly_once_under_a_number_and_nonce_of_its_own(wanted, liveness):
    made = plan(wanted, stamp(), liveness=liveness)
    sent = [probe for round_ in made.rounds for probe in round_]
    planned = {probe for each in made.exchanges for probe in (each.probe, each.lookup, *each.life) if probe is not None}
    assert set(sent) == planned
    assert len(sent) == len({probe.id for probe in sent}) == len({probe.nonce for probe in sent})


@given(exchanges, st.booleans())
def test_no_round_holds_two_pings_of_a_pair_or_a_probe_beside_its_lookup(wanted, liveness):
    made = plan(wanted, stamp(), liveness=liveness)
    place = {probe.id: index for index, round_ in enumerate(made.rounds) for probe in round_}
    for round_ in made.rounds:
        pings = [(probe.site, probe.address) for probe in round_ if probe.protocol is Protocol.ICMP]
        assert len(pings) == len(set(pings))
    assert all(place[each.lookup.id] < place[each.probe.id] for each in made.exchanges if each.lookup)
