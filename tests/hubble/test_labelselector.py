"""Label selectors as text, with Cilium's sources."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.hubble.labelselector import parse_selector

LABELS = ("k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "reserved:host", "k8s:replicas=3", "any:zone=a")


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app", True),
        ("app=web", True),
        ("app==web", True),
        ("k8s:app=web", True),
        ("any:app=web", True),
        ("reserved:app=web", False),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("!app", False),
        ("!missing", True),
        ("! missing", True),
        ("reserved:host", True),
        ("host=", True),
        ("k8s:app in (db, web)", True),
        ("k8s:app in (db)", False),
        ("app notin (db)", True),
        ("missing notin (db)", True),
        ("app notin (web)", False),
        ("io.kubernetes.pod.namespace=shop", True),
        ("k8s:io.kubernetes.pod.namespace=shop, app=web", True),
        ("app=web,app=db", False),
        ("replicas>2", True),
        ("replicas<3", False),
        ("app>2", False),
        ("k8s:zone=a", False),
        ("zone in ()", False),
        ("host in (,x)", True),
    ],
)
def test_a_selector_matches_as_kubernetes_would(selector: str, matches: bool):
    assert parse_selector(selector)(LABELS) is matches


@pytest.mark.parametrize(
    "selector", ["app=web,", "=web", "app in web", "app in (web", "app web", "-app", "a>b", "app=(", "app in (a b)", "Not OK!"]
)
def test_a_malformed_selector_is_refused(selector: str):
    with pytest.raises(ValueError, match=r"found|expected|integer"):
        parse_selector(selector)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str):
    try:
        predicate = parse_selector(text)
    except ValueError:
        return
    assert predicate(LABELS) in {True, False}


@settings(deadline=None)
@given(st.sampled_from(["app", "k8s:app", "missing"]), st.sampled_from(["web", "db"]))
def test_notin_is_the_opposite_of_in(key: str, value: str):
    assert parse_selector(f"{key} in ({value})")(LABELS) is not parse_selector(f"{key} notin ({value})")(LABELS)
