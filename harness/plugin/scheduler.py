"""How xdist spreads cases: all phases of a case go to one worker. Everything that is not a case is spread as xdist does by itself."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling, LoadScheduling, WorkStealingScheduling

from harness.plugin.options import is_phase

MODES = {"load": LoadScheduling, "worksteal": WorkStealingScheduling, "loadgroup": LoadGroupScheduling}
"""Those of xdist's modes that would tear cases apart, with what xdist does in them. `loadscope` and `loadfile` keep cases together
by themselves; `each` runs everything everywhere."""


def make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler, or None: xdist's own."""
    return CaseScheduling(config, log) if config.getoption("dist") in MODES else None


class CaseScheduling(LoadGroupScheduling):  # type: ignore[misc]  # xdist has no types
    """A case is a scope, and so is an xdist group (with `--dist=loadgroup`); any other test is one of its own. A run without cases is
    handed to xdist's own scheduler."""

    def _split_scope(self, nodeid: str) -> str:
        scope, _, last = nodeid.rpartition("::")
        if self.config.getoption("dist") == "loadgroup" and "@" in last:
            return str(super()._split_scope(nodeid))
        return scope if is_phase(nodeid) else nodeid

    def schedule(self) -> None:
        first: list[str] = next(iter(self.registered_collections.values()), [])
        reporting = self.config.pluginmanager.get_plugin("harness-reporting")
        if reporting is not None and reporting.mistakes and not self.config.getoption("continue_on_collection_errors"):
            # As without xdist: nothing runs, and nothing is provisioned, while a case file has a mistake.
            count = len(reporting.mistakes)
            self.config.pluginmanager.get_plugin("dsession").shouldstop = f"{count} error{'s' if count > 1 else ''} during collection"
        elif self.collection is None and not any(map(is_phase, first)):
            self._hand_over()
        else:
            super().schedule()

    def _reschedule(self, node: Any) -> None:
        """A worker begins its last test only when it knows what follows. xdist gives one that replaces a crashed worker a single case and
        then waits for ever for it to be done, where that case has a single phase."""
        if node not in self.registered_collections:
            return  # it replaces a crashed one, and is still collecting: xdist asks again when it has
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)  # one more case, or the end

    def _hand_over(self) -> None:
        scheduler = MODES[self.config.getoption("dist")](self.config, self.log)
        # A worker that crashed since it told what it collected is still registered, but no node any more.
        ready = {node: collection for node, collection in self.registered_collections.items() if node in self.assigned_work}
        scheduler.numnodes = min(scheduler.numnodes, len(ready))
        for node, collection in ready.items():
            scheduler.add_node(node)
            scheduler.add_node_collection(node, collection)
        for node in self.nodes:
            if node not in ready:
                scheduler.add_node(node)
        self.config.pluginmanager.get_plugin("dsession").sched = scheduler
        scheduler.schedule()
