"""Policies and workloads from files, and questions about them answered by the model. Not the scenario stream: that is `predict`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.cases.document import Items, Node, Table, parse_documents
from harness.cases.manifests import CIDR_GROUP, objects_of, plain, policy_error
from harness.cases.source import Source, read_source
from harness.errors import PolicyFileError, UsageError
from harness.model.cluster import ClusterState
from harness.model.traffic import External, Peer, PodRef, Protocol, Request, RequestKind, Traffic
from harness.policy.evaluate import Evaluator
from harness.policy.repository import Repository
from harness.policy.workloads import Manifest, read_workloads

_QUESTION = re.compile(
    r"\s*(?P<source>\S+)\s*->\s*(?P<destination>\S+?):(?P<port>\d+)(?:/(?P<protocol>tcp|udp|sctp))?"
    r"(?:\s+(?P<method>[A-Z]+)\s+(?P<path>/\S*))?\s*"
)


def load(policies: Sequence[str], workloads: Sequence[str]) -> Evaluator:
    """The model of what the files hold. Each name is a file, a folder (its manifests, at any depth) or `-`."""
    objects = [each for node in documents(policies) for each in objects_of(node)]
    groups = [Manifest(each.document, each.place.location) for each in objects if each.kind == CIDR_GROUP]
    manifests = [each for node in documents(workloads) for each in _manifests(node)]
    state = read_workloads([*manifests, *groups]).state
    applied = [each.policy("default").document for each in objects if each.kind != CIDR_GROUP]
    return Evaluator(state, Repository.empty().change(apply=applied))


def parse_question(text: str) -> Traffic:
    """`shop/web -> shop/api:8080`, with `/udp` after the port or a request such as `GET /admin` after it all."""
    match = _QUESTION.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise UsageError(f"not a question: {text!r}", hint="as in 'shop/web -> shop/api:8080', '... :53/udp', '... :8080 GET /admin'")
    request = Request(RequestKind.HTTP, method=match["method"], path=match["path"]) if match["method"] else None
    protocol = Protocol((match["protocol"] or "tcp").upper())
    return Traffic(_peer(match["source"]), _peer(match["destination"]), protocol, int(match["port"]), request)


def pairs(state: ClusterState) -> Iterator[tuple[str, Traffic]]:
    """Every pair of pods with every port that the target declares, as questions."""
    for source in state.pods:
        for target in state.pods:
            for port in target.ports if source is not target else ():
                protocol = "" if port.protocol is Protocol.TCP else f"/{port.protocol.lower()}"
                yield f"{source.ref} -> {target.ref}:{port.port}{protocol}", Traffic(source.ref, target.ref, port.protocol, port.port)


def _peer(text: str) -> Peer:
    if text.startswith("world:"):
        try:
            return External(text.removeprefix("world:").strip("[]"))
        except ValueError:
            raise UsageError(f"{text!r} is no address", hint="as in world:192.0.2.1") from None
    namespace, slash, name = text.partition("/")
    return PodRef(namespace, name) if slash else PodRef("default", text)


def documents(names: Sequence[str]) -> Iterator[Node]:
    """The YAML documents of files, of folders (their manifests, at any depth) and of standard input (`-`)."""
    for file in manifest_files(names):
        yield from parse_documents(read_manifest(file))


def manifest_files(names: Sequence[str]) -> Iterator[str]:
    """The files that are meant, folders as the manifests in them. `-` stays as it is."""
    for name in names:
        path = Path(name)
        if name == "-" or not path.is_dir():
            yield name
            continue
        files = sorted(each for each in path.rglob("*") if each.suffix in (".yaml", ".yml", ".json") and each.is_file())
        if not files:
            raise UsageError(f"there is no manifest in {name}", hint="manifests end in .yaml, .yml or .json")
        yield from map(str, files)


def read_manifest(file: str) -> Source:
    """The text of a file, or of standard input (`-`)."""
    if file == "-":
        return Source("<stdin>", sys.stdin.read(), error=PolicyFileError)
    return read_source(Path(file), error=PolicyFileError)


def read_state(names: Sequence[str]) -> ClusterState:
    """What the workload manifests make run."""
    return read_workloads(manifest for node in documents(names) for manifest in _manifests(node)).state


def _manifests(node: Node) -> Iterator[Manifest]:
    if not isinstance(node, Table):
        raise policy_error(node.place, "expected a Kubernetes object (a mapping)")
    kind = node.get("kind")
    if kind is not None and str(kind) == "List":
        items = node.get("items")
        if not isinstance(items, Items):
            raise policy_error(node.place, "a List needs `items`, a list of objects")
        for item in items:
            yield from _manifests(item)
        return
    yield Manifest(plain(node), node.place.location)
