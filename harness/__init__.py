"""Test-driven development for Cilium network policies: cases, packets, flows, verdicts."""

__version__ = "0.1.0"
