"""The examples of rules as manifests: what the tests lint and the documentation shows."""

from __future__ import annotations

import textwrap

from harness.cases.document import parse_documents
from harness.cases.manifests import plain
from harness.cases.source import Source
from harness.errors import PolicyFileError
from harness.lint.finding import Finding
from harness.lint.given import Given, Ranges, usual_ranges
from harness.lint.policy import policies_of
from harness.lint.registry import LintRule
from harness.lint.run import lint
from harness.policy.options import Options
from harness.policy.workloads import Manifest, read_workloads

_HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: web\n  namespace: shop\nspec:\n"
_SUBJECT = "endpointSelector:\n  matchLabels: {app: web}\n"


def manifest(example: str) -> str:
    """An example as a whole manifest: with its apiVersion, or as the spec of a policy that selects app=web."""
    if example.startswith("kind: NetworkPolicy"):
        return f"apiVersion: networking.k8s.io/v1\n{example}"
    if example.startswith("kind:"):
        return f"apiVersion: cilium.io/v2\n{example}"
    subject = "" if example.startswith("endpointSelector") else _SUBJECT
    return _HEAD + textwrap.indent(subject + example, "  ")


def findings_in(example: str, rules: list[LintRule], workloads: str = "", ranges: Ranges | None = None) -> list[Finding]:
    """What rules find in one example."""
    source = Source("example.yaml", manifest(example), error=PolicyFileError)
    options = Options()
    state = None
    if workloads:
        nodes = parse_documents(Source("workloads.yaml", workloads, error=PolicyFileError))
        state = read_workloads(Manifest(plain(node), node.place.location) for node in nodes).state
    return lint(Given(tuple(policies_of(source, 0, options)), ranges or usual_ranges(), state, options), rules)
