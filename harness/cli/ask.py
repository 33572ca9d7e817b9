"""Manifests out of files, folders and standard input. What they hold is `given`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.cases.document import Items, Node, Table, parse_documents
from harness.cases.manifests import plain, policy_error
from harness.cases.source import Source, read_source
from harness.errors import PolicyFileError, UsageError
from harness.model.cluster import ClusterState
from harness.policy.workloads import Manifest, read_workloads


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
