"""When is a policy in force? When every agent that has pods of the case lists it, and each pod's endpoint has realized that revision.
Reading the agents' words is pure; asking them is `Agents`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from harness.clusters.kubernetes.capabilities import AgentStatus, parse_status
from harness.clusters.kubernetes.client import API_ERRORS, Api
from harness.clusters.kubernetes.exec import Output
from harness.clusters.kubernetes.policies import MARK
from harness.clusters.kubernetes.shell import Shell
from harness.errors import ClusterError
from harness.model.traffic import PodRef

_UID = "io.cilium.k8s.policy.uid"
_BETWEEN = "--- endpoints ---"
_TOOL = "c=cilium-dbg; command -v $c >/dev/null 2>&1 || c=cilium; "
_ASK = f"{_TOOL}$c policy get -o json && echo && echo '{_BETWEEN}' && $c endpoint list -o json"
"""Policies first: what an endpoint has realized afterwards is at least what the agent had then."""
_SERVICES = "--- services ---"
_STATUS = f"{_TOOL}$c status -o json; echo; echo '{_SERVICES}'; $c service list -o json >/dev/null 2>&1 && echo yes"
_CONTAINER = "cilium-agent"
_WITHIN = 30.0
"""How long an agent may take to answer (s)."""


class EndpointView(Struct, frozen=True):
    """One endpoint as its agent reports it."""

    state: str
    realized: int
    identity: int


class AgentView(Struct, frozen=True):
    """What one agent has: its policies by uid (with their marks), its revision, and the endpoints of pods."""

    revision: int
    policies: Mapping[str, frozenset[str]]
    endpoints: Mapping[PodRef, EndpointView]


class Wanted(Struct, frozen=True):
    """What every agent must have: uid to mark ('' for any version), and uids that must be gone."""

    present: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()


def parse_view(text: str) -> AgentView:
    """The output of one asking. ValueError where it is not what an agent says."""
    policies, separator, endpoints = text.partition(_BETWEEN)
    if not separator:
        raise ValueError(f"not an agent's answer: {text[:200]!r}")
    revision, rules = _policies(policies)
    marks: dict[str, frozenset[str]] = {}
    for labels in _labels(rules):
        if uid := labels.get(_UID):
            marks[uid] = marks.get(uid, frozenset()) | ({labels[MARK]} if MARK in labels else frozenset())
    return AgentView(revision, marks, dict(_endpoints(json.loads(endpoints))))


def _policies(text: str) -> tuple[int, Any]:
    """`policy get`: an object with the policy as text, or (older) the list and a line with the revision."""
    try:
        answer = json.loads(text)
        return int(answer["revision"]), json.loads(answer["policy"] or "[]")
    except (ValueError, TypeError, KeyError):
        found = re.search(r"^Revision:\s*(\d+)", text, re.MULTILINE)
        if found is None:
            raise ValueError(f"no revision in {text[:200]!r}") from None
        return int(found[1]), json.loads(text[: found.start()] or "[]")


def _labels(rules: Any) -> Iterator[Mapping[str, str]]:
    for rule in rules if isinstance(rules, list) else ():
        labels = rule.get("labels") or rule.get("Labels") or []
        yield {str(each["key"]): str(each.get("value", "")) for each in labels if "key" in each}


def _endpoints(listed: Any) -> Iterator[tuple[PodRef, EndpointView]]:
    for endpoint in listed:
        status = endpoint.get("status") or {}
        ids = status.get("external-identifiers") or {}
        namespace, name = ids.get("k8s-namespace"), ids.get("k8s-pod-name")
        if namespace and name:
            realized = ((status.get("policy") or {}).get("realized") or {}).get("policy-revision") or 0
            identity = (status.get("identity") or {}).get("id") or 0
            yield PodRef(namespace, name), EndpointView(str(status.get("state", "")), int(realized), int(identity))


def published(api: Api, namespaces: Iterable[str]) -> Mapping[PodRef, EndpointView] | None:
    """The endpoints that the agents publish as CiliumEndpoint objects, without what they have realized; None where they may not be read."""
    found: dict[PodRef, EndpointView] = {}
    for namespace in namespaces:
        try:
            listed = api.objects.list_namespaced_custom_object("cilium.io", "v2", namespace, "ciliumendpoints", _request_timeout=10)
        except API_ERRORS:
            return None
        found.update(_published(listed.get("items") or ()))
    return found


def _published(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[PodRef, EndpointView]]:
    for each in items:
        status = each.get("status") or {}
        identity = (status.get("identity") or {}).get("id") or 0
        yield (
            PodRef(each["metadata"]["namespace"], each["metadata"]["name"]),
            EndpointView(str(status.get("state", "")), 0, int(identity)),
        )


def pending(view: AgentView, wanted: Wanted, pods: Iterable[PodRef], revision: int) -> str:
    """What this agent still lacks, in words; '' where it has everything. `revision`: the one its endpoints must have realized."""
    for uid, mark in wanted.present.items():
        if uid not in view.policies:
            return f"the policy with uid {uid} is not there"
        if mark and mark not in view.policies[uid]:
            return f"the policy with uid {uid} is still the version before"
    if left := wanted.absent & view.policies.keys():
        return f"the removed policy with uid {min(left)} is still there"
    return unready(view, pods, revision)


def unready(view: AgentView, pods: Iterable[PodRef], revision: int) -> str:
    """Which endpoint has not realized the revision, in words; '' where all have."""
    for pod in pods:
        endpoint = view.endpoints.get(pod)
        if endpoint is None:
            return f"pod {pod} is no endpoint yet"
        if endpoint.state != "ready":
            return f"the endpoint of {pod} is {endpoint.state}"
        if endpoint.realized < revision:
            return f"the endpoint of {pod} has realized revision {endpoint.realized}, not {revision}"
    return ""


class Agents:
    """The Cilium agents of the nodes, each asked over a shell that is kept open until `close`."""

    def __init__(self, api: Api, pods: Mapping[str, PodRef]) -> None:
        """`pods` are the agents' own, by node."""
        self.pods = pods
        self._shells = {node: Shell(api, pod, _CONTAINER) for node, pod in pods.items()}

    def ask(self, nodes: Sequence[str]) -> Mapping[str, AgentView | str]:
        """Each node's agent's view, or why there is none."""
        asked = {node: self._shell(node).ask(_ASK) for node in nodes}
        return {node: _viewed(answer(_WITHIN)) for node, answer in asked.items()}

    def version(self) -> str:
        """The version that an agent says it is; '' where none says it."""
        for node in list(self.pods)[:1]:
            found = re.search(r"(\d+\.\d+\.\d+\S*)", self._answer(node, _TOOL + "$c version").stdout)
            return found[1].rstrip(",") if found else ""
        return ""

    def status(self) -> AgentStatus:
        """What an agent says of itself; nothing where it cannot be asked."""
        for node in list(self.pods)[:1]:
            said, _, listed = self._answer(node, _STATUS).stdout.partition(_SERVICES)
            return parse_status(said, services=listed.strip() == "yes")
        return AgentStatus()

    def reach(self) -> str:
        """Why the agents cannot be asked; '' where they can."""
        if not self.pods:
            return "there is no agent pod that this user may see"
        output = self._answer(next(iter(self.pods)), _TOOL + "$c version >/dev/null 2>&1")
        return "" if output.exit.code == 0 else output.exit.why or output.stderr or "the command failed"

    def close(self) -> None:
        """End the shells. Idempotent."""
        for shell in self._shells.values():
            shell.close()

    def _answer(self, node: str, question: str) -> Output:
        return self._shell(node).ask(question)(_WITHIN)

    def _shell(self, node: str) -> Shell:
        shell = self._shells.get(node)
        if shell is None:
            raise ClusterError(f"node {node} has no Cilium agent that this user may see")
        return shell


def _viewed(output: Output) -> AgentView | str:
    if output.exit.code != 0:
        return output.exit.why or output.stderr.strip() or f"exit code {output.exit.code}"
    try:
        return parse_view(output.stdout)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        return f"its answer cannot be read: {error}"
