"""Switches of the policy model: the Cilium version it claims and the agent settings that change verdicts."""

from __future__ import annotations

from dataclasses import dataclass

SUPPORTED = ("1.18", "1.19", "1.20")
"""Minor versions the model knows. 1.19 and 1.20 are verified against Cilium's own engine, 1.18 follows the text only."""
DEFAULT_CILIUM = "1.20"


@dataclass(frozen=True, slots=True)
class Options:
    """`cilium` is a minor version of SUPPORTED (a patch level is accepted and ignored by `Options.of`)."""

    cilium: str = DEFAULT_CILIUM
    enforcement: str = "default"
    """policyEnforcementMode: default, always or never."""
    host_firewall: bool = False
    names_unknown: bool = False
    """True: what DNS taught the agents is unknown, so toFQDNs answers unknown. False: nothing was learned, it matches nothing."""
    cluster_name: str = "default"
    l7_proxy: bool = True
    node_selector_labels: bool = False
    cidr_match_mode: frozenset[str] = frozenset()
    audit: bool = False
    auth_enabled: bool = False
    ipv4: bool = True
    ipv6: bool = True
