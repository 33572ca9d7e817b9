"""Names that DNS cannot have, against patterns and what they match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.policy.fqdn import FQDNMatcher, impossible

LABELS = st.text("ab-_1", min_size=1, max_size=4).flatmap(
    lambda text: st.sampled_from([text, text * 20, text * 15]).map(lambda each: each[:63])
)
NAMES = st.lists(LABELS, min_size=1, max_size=6).map(".".join).filter(lambda name: len(name) <= 253)


@given(NAMES, st.data())
def test_a_pattern_that_matches_a_name_is_possible(name: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(name) - 1))
    end = data.draw(st.integers(start, len(name)))
    pattern = name[:start] + "*" + name[end:]
    if FQDNMatcher(match_pattern=pattern).matches(name):
        assert impossible(pattern) == ""
    assert impossible(name) == ""
    assert impossible(f"{name}.") == ""


@pytest.mark.parametrize("pattern", ["*", "**", "**.", "*.example.com", "**.example.com", "*" * 100 + "a.com", "a" * 63 + "*.com"])
def test_stars_stand_for_as_little_as_they_like(pattern: str) -> None:
    assert impossible(pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a" * 64 + "*.com", "a label has 63 at most"),
        (".".join(["*" + "a" * 63] * 4), "a name has 253 at most"),
        ("a..com", "a label of it is empty"),
        ("", "a label of it is empty"),
    ],
)
def test_what_is_too_long_already_matches_nothing(pattern: str, why: str) -> None:
    assert impossible(pattern).endswith(why)
