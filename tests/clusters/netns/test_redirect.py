"""The pure part of redirection: who sends from which ports, and what marks carry."""

from __future__ import annotations

import pytest

from harness.clusters.netns.addresses import MAX_NODES
from harness.clusters.netns.ports import FIRST_PORT
from harness.clusters.netns.redirect import DELIVER, WIDEST, ProxyPort, ProxyPorts, own_ports
from harness.errors import ClusterError
from harness.model.identity import LOCAL_IDENTITY_MIN
from harness.model.traffic import Direction
from harness.model.verdict import Decision, PolicyRef, RuleRef
from harness.policy.map import DirectionPolicy, Interval, ProxyRules

RULES = ProxyRules(server_names=("a.io",))


def policy(first: int, last: int, rules: ProxyRules = RULES) -> DirectionPolicy:
    rule = RuleRef(PolicyRef("CiliumNetworkPolicy", "d", "p"), "egress[0]")
    interval = Interval(6, first, last, Decision.ALLOW, (rule,), "tls", proxy=rules)
    return DirectionPolicy(enforced=True, default=Decision.DEFAULT_DENY, by_identity={300: (interval,), 301: (interval,)})


def test_no_two_nodes_send_from_the_same_port_and_none_from_a_clients() -> None:
    taken = [port for node in range(MAX_NODES) for port in range(own_ports(node)[0], own_ports(node)[1] + 1)]
    assert len(taken) == len(set(taken))
    assert min(taken) >= 1024
    assert max(taken) < FIRST_PORT


def test_equal_rules_share_a_port_and_different_ones_do_not() -> None:
    ports = ProxyPorts()
    both = [port for _, _, port in ports.of(policy(443, 444), Direction.EGRESS)]
    assert [port.target for port in both] == [443, 444, 443, 444]
    assert both[:2] == both[2:], "two identities under one rule"
    assert both[0] == next(ports.of(policy(443, 443), Direction.EGRESS))[2]
    others = [
        next(ports.of(policy(443, 443), Direction.INGRESS))[2],
        next(ports.of(policy(443, 443, ProxyRules(server_names=("b.io",))), Direction.EGRESS))[2],
    ]
    assert len({port.number for port in (*both, *others)}) == 4


@pytest.mark.parametrize("direction", Direction)
def test_marks_carry_the_port_and_never_meet_an_identity(direction: Direction) -> None:
    port = ProxyPort(61000, direction, "tls", RULES, 65535)
    assert ProxyPort.of_mark(port.mark) == (65535, direction is Direction.INGRESS)
    assert not port.mark & DELIVER
    assert port.id & 0xFFFF == 61000
    assert port.mark > 2 * LOCAL_IDENTITY_MIN
    assert port.mark < DELIVER


def test_a_rule_for_more_ports_than_can_be_redirected_is_an_error_that_names_it() -> None:
    with pytest.raises(ClusterError, match=r"ports 1000 to 1064 have tls rules: CiliumNetworkPolicy/d/p egress\[0\]"):
        list(ProxyPorts().of(policy(1000, 1000 + WIDEST), Direction.EGRESS))
