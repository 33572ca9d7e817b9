"""The client's side of Hubble in one place: `Observer` asks, `FlowFeed` follows."""

from __future__ import annotations

from harness.hubble.feed import FlowFeed, Registration
from harness.hubble.observer import Observer, ServerStatus

__all__ = ["FlowFeed", "Observer", "Registration", "ServerStatus"]
