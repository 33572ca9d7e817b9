"""The flows of a cluster: the way to its Relay and the stream that is read there. Not the finding of Relay (`relay`), nor what a flow
means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.clusters.kubernetes import background
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.relay import Forward, credentials, find_relay, server_name
from harness.hubble.client import FlowFeed, Observer

_WITHIN = 10.0
"""How long Relay may take to answer at first (s)."""


@dataclass(slots=True)
class Flows:
    """A port-forward, an Observer at its end, and the feed that follows it."""

    forward: Forward
    observer: Observer
    feed: FlowFeed

    @classmethod
    def connect(cls, api: Api) -> Flows:
        """Find Relay and follow it. FlowsUnavailableError where there is none, or it does not answer; then nothing is left open."""
        relay = find_relay(api)
        trusted = credentials(api, relay)
        forward = Forward(api, relay.namespace, relay.pod, relay.port, moved=partial(find_relay, api))
        try:
            return background.wait_for(cls._follow(forward, trusted, server_name(relay) or ""))
        except BaseException:
            forward.close()
            raise

    @classmethod
    async def _follow(cls, forward: Forward, trusted: Any, name: str) -> Flows:
        observer = await Observer.connect(forward.address, credentials=trusted, server_name=name, within=_WITHIN)
        feed = FlowFeed(observer)
        try:
            await feed.start()
        except BaseException:
            await observer.close()
            raise
        return cls(forward, observer, feed)

    def close(self) -> None:
        background.wait_for(self._close())

    async def _close(self) -> None:
        try:
            await self.feed.close()
            await self.observer.close()
        finally:
            self.forward.close()
