"""How xdist spreads cases: all phases of a case go to one worker. Everything that is not a case is spread as xdist does by default."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScheduling, LoadScopeScheduling, WorkStealingScheduling

MODES = {"load": LoadScheduling, "worksteal": WorkStealingScheduling}
"""Those of xdist's modes that would tear cases apart. The others are left as they are: `loadscope` and `loadfile` keep cases together by
themselves, `loadgroup` and `each` are the user's own decision."""


def make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler, or None: xdist's own."""
    return CaseScheduling(config, log) if config.getoption("dist") in MODES else None


def is_phase(nodeid: str) -> bool:
    """Whether it is `FILE.yaml::CASE::PHASE`."""
    file, _, rest = nodeid.partition("::")
    return file.endswith(".yaml") and "::" in rest


class CaseScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A case is a scope; any other test is one of its own. A run without cases is handed to xdist's own scheduler."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.rsplit("::", 1)[0] if is_phase(nodeid) else nodeid

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

    def _hand_over(self) -> None:
        scheduler = MODES[self.config.getoption("dist")](self.config, self.log)
        for node in self.nodes:
            scheduler.add_node(node)
        for node, collection in self.registered_collections.items():
            scheduler.add_node_collection(node, collection)
        self.config.pluginmanager.get_plugin("dsession").sched = scheduler
        scheduler.schedule()
