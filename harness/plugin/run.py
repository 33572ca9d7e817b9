"""One process's run: the session, opened by the first test that needs it, and the events that wait to be carried to the reports."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pytest

from harness.errors import HarnessError
from harness.plugin.interrupt import guard

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.clusters.base import Cluster
    from harness.engine.events import Event, PhaseFinished, PhaseSkipped
    from harness.engine.session import Session
    from harness.plugin.options import RunOptions


@runtime_checkable
class Enterable(Protocol):
    """A cluster that a person can have a look into."""

    def how_to_enter(self) -> str:
        """The commands, as text for the terminal."""


class OpeningError(Exception):
    """The cluster could not be opened; every test of the run that needs it is pointless. Carries the error that says why."""

    def __init__(self, error: HarnessError) -> None:
        super().__init__(str(error))
        self.error = error


class Run:
    """Opens once, closes once. `take` hands over the events since the last time."""

    def __init__(self, options: RunOptions, worker: str = "", shared: str = "", tell: Callable[[str], None] = print) -> None:
        """`worker` tells the workers of a run apart, `shared` is what they have in common; both '' where this process is alone. `tell` shows
        a person a line while a cluster is being made."""
        self.options = options
        self.worker = worker
        self._shared = shared
        self._tell = tell
        self.cluster: Cluster | None = None
        self._session: Session | None = None
        self._failure: OpeningError | None = None
        self._events: list[Event] = []
        self.last: list[Event] = []
        """The events of the phase that ran last."""

    def session(self) -> Session:
        """The session; opens it the first time. Raises `OpeningError`, always the same one."""
        if self._failure is not None:
            raise self._failure
        if self._session is None:
            from harness.clusters.open import ClusterOptions, Hubble, default_hubble, open_cluster
            from harness.engine.session import Session
            from harness.engine.settings import Settings

            options = self.options
            started = time.monotonic()
            hubble = Hubble(options.hubble) if options.hubble else default_hubble(options.cluster)
            try:
                self.cluster = open_cluster(
                    options.cluster,
                    ClusterOptions(
                        cilium=options.cilium,
                        cilium_asked=options.cilium_asked,
                        hubble=hubble,
                        keep=options.keep,
                        run=self._shared,
                        worker=self.worker,
                        hubble_listen=options.hubble_listen,
                        kube_context=options.kube_context,
                        image=options.image,
                        image_pull_policy=options.image_pull_policy,
                        image_pull_secret=options.image_pull_secret,
                        toleration=options.toleration,
                        node_selector=options.node_selector,
                        externals=options.externals,
                        allow_host=options.allow_host,
                        allow_clusterwide=options.allow_clusterwide,
                        profile=options.profile,
                        cilium_chart=options.cilium_chart,
                        kind_name=options.kind_name,
                        kind_image=options.kind_image,
                        tell=self._tell,
                    ),
                )
                settings = Settings(hubble=hubble, timeout=options.timeout, worker=self.worker)
                self._session = Session(self.cluster, settings, self._events.append, opening=time.monotonic() - started)
            except HarnessError as error:
                self._failure = OpeningError(error)
                self.close()
                raise self._failure from None
            except BaseException:
                self.close()
                raise
        return self._session

    def run_phase(self, case: Case, phase: str) -> PhaseFinished | PhaseSkipped:
        """Run one phase; its events are in `last`, and waiting to be taken."""
        session = self.session()
        begin = len(self._events)
        try:
            return session.run_phase(case, phase)
        finally:
            self.last = self._events[begin:]

    def tell(self, *events: Event) -> None:
        """Add events of what did not run as a phase of a file."""
        self.last = list(events)
        self._events += events

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events[:] = self._events[:], []
        return events

    def how_to_enter(self) -> str:
        """For `--keep`: where the last case is, and how to get in."""
        return self.cluster.how_to_enter() if isinstance(self.cluster, Enterable) else "--keep: there is nothing to enter in this cluster"

    def close(self) -> None:
        """Close the session and the cluster, whatever state they are in. Idempotent."""
        session, self._session = self._session, None
        cluster, self.cluster = self.cluster, None
        try:
            if session is not None:
                session.close()
        finally:
            if cluster is not None:
                cluster.close()


RUN: pytest.StashKey[Run] = pytest.StashKey()


def run_of(config: pytest.Config) -> Run:
    """The run of this process, made at the first call."""
    run = config.stash.get(RUN, None)
    if run is None:
        from harness.plugin.options import resolve

        guard(config)
        worker: dict[str, Any] = getattr(config, "workerinput", {})
        name = str(worker.get("workerid", ""))
        run = config.stash[RUN] = Run(resolve(config), name, str(worker.get("testrunuid", "")), partial(_show, config, name))
    return run


def _show(config: pytest.Config, worker: str, line: str) -> None:
    """A line on the terminal while a test runs. Workers have no terminal, but the controller's standard error is theirs too."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
        print(f"{f'[{worker}] ' if worker else ''}harness: {line}", file=sys.stderr, flush=True)  # noqa: T201 -- that is what it is for
