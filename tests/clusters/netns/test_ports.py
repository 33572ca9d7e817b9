"""No source port twice towards one target, however many probes there are."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from harness.clusters.netns.ports import SourcePorts, Target

FIRST, LAST = 20, 29
CLIENTS = st.sampled_from(["one", "other"])
TARGETS = st.sampled_from([("10.0.0.1", 80), ("10.0.0.1", 25), ("10.0.0.2", 80)])


@given(st.lists(st.tuples(CLIENTS, TARGETS, st.integers(0, 3)), max_size=120))
def test_no_port_comes_twice_towards_one_target(wanted: list[tuple[str, Target, int]]) -> None:
    """`taken` ports in a row turn out to be in use by somebody else: the next is tried."""
    ports = SourcePorts(FIRST, LAST)
    seen: defaultdict[tuple[str, Target], list[int]] = defaultdict(list)
    for client, target, taken in wanted:
        offered = ports.offer(client, target)
        for _ in range(taken + 1):
            if (port := next(offered, None)) is not None:
                seen[client, target].append(port)
    for (_, target), used in seen.items():
        assert len(set(used)) == len(used)
        assert set(used) <= set(range(FIRST, LAST + 1)) - {target[1]}


def test_all_ports_come_before_there_are_no_more() -> None:
    ports = SourcePorts(FIRST, LAST)
    target = ("10.0.0.1", 25)
    used = [next(ports.offer("one", target)) for _ in range(LAST - FIRST)]
    assert set(used) == set(range(FIRST, LAST + 1)) - {25}
    assert list(ports.offer("one", target)) == []
    assert next(ports.offer("one", ("10.0.0.2", 25))) in range(FIRST, LAST + 1)
    assert next(ports.offer("other", target)) in range(FIRST, LAST + 1)
