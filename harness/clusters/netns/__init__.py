"""The netns lab: pods are network namespaces of one process, policy is enforced by the kernel, flows come from its log.

`cluster` is the side that tests see; `lab` the process that owns everything. What each module holds is told in its first line.
"""

from __future__ import annotations

from harness.clusters.netns.machine import probe_capabilities

__all__ = ["probe_capabilities"]
