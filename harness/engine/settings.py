"""How a run is to be carried out, as the user set it. Not where it runs: that is `harness.clusters.open`."""

from __future__ import annotations

from msgspec import Struct

from harness.clusters.open import Hubble


class Settings(Struct, frozen=True):
    """`timeout` is in seconds; None means the cluster's default (1 s in the lab, 3 s on a real cluster)."""

    hubble: Hubble = Hubble.REQUIRE
    timeout: float | None = None
    worker: str = ""
    """The xdist worker, '' where there is only one process."""
    coverage: bool = True
    """Whether policies without which no expectation would change are looked for and reported."""
