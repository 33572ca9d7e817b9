"""What a cluster lacks becomes the reason of a skip."""

from __future__ import annotations

import pytest

from harness.cases.case import Requirements
from harness.clusters.base import Capabilities
from harness.engine.requirements import unmet

CLUSTER = Capabilities("1.20", frozenset({"icmp", "ipv6"}), {"wireguard": "the lab does not encrypt"})


def needs(cilium: str = "", *features: str) -> Requirements:
    return Requirements(cilium, frozenset(features))


def test_nothing_is_missing_where_everything_is_there():
    assert not unmet([needs(">=1.16", "icmp", "ipv6"), needs()], CLUSTER)


def test_a_missing_feature_is_explained_by_the_cluster():
    assert unmet([needs("", "icmp"), needs("", "wireguard")], CLUSTER) == "requires wireguard: the lab does not encrypt"


def test_a_feature_that_the_cluster_does_not_speak_of_is_missing_too():
    assert unmet([needs("", "spire")], CLUSTER) == "requires spire: this cluster does not have it"


def test_a_feature_may_have_to_be_absent():
    assert unmet([needs("", "!ipv6")], CLUSTER) == "requires a cluster without ipv6; this one has it"
    assert not unmet([needs("", "!sctp")], CLUSTER)


@pytest.mark.parametrize(
    ("specifier", "version", "fits"),
    [
        (">=1.18", "1.20", True),
        (">=1.18", "1.17.9", False),
        ("<1.20", "1.20.0", False),
        (">=1.20", "1.20.0-pre.4", True),
        ("==1.19.*", "1.19.7", True),
        ("!=1.19.0,>=1.18", "1.19.0", False),
        (">=1.18", "latest", False),
    ],
)
def test_version_specifiers(specifier, version, fits):
    assert (not unmet([needs(specifier)], Capabilities(version, frozenset()))) is fits


def test_a_version_that_does_not_fit_is_named():
    assert unmet([needs(">=1.21")], CLUSTER) == "requires Cilium >=1.21; this is 1.20"
