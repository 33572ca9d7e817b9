"""DNS selectors against Cilium's own matching: which are accepted, and which names they match."""

from __future__ import annotations

from harness.policy.fqdn import FQDNMatcher
from harness.policy.options import Options
from harness.policy.parse import parse_policy
from tests.conformance.vectors import read


def _policy(selector: dict[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "names", "namespace": "a"},
        "spec": {"endpointSelector": {}, "egress": [{"toFQDNs": [selector]}]},
    }


def test_every_selector_is_accepted_or_refused_as_cilium_does() -> None:
    count = 0
    for line in read("names"):
        selector = {key: line[key] for key in ("matchName", "matchPattern") if key in line}
        error = parse_policy(_policy(selector), Options()).error
        assert (error is None) == (line["schema"] and line["valid"]), selector
        if not line["schema"]:
            assert error is not None
            assert error.stage == "schema"
        count += 1
    assert count == 700


def test_every_name_matches_as_in_cilium() -> None:
    wrong = []
    for line in read("names"):
        if not line["valid"]:
            continue
        matcher = FQDNMatcher(line.get("matchName", ""), line.get("matchPattern", ""))
        wrong += [
            (line.get("matchName") or line["matchPattern"], name, expected)
            for name, expected in zip(line["names"], line["matches"], strict=True)
            if matcher.matches(name) is not expected
        ]
    assert not wrong
