"""Manifests and inline objects: YAML as Kubernetes' own tools read it, checked to be policies. Rules inside stay raw."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from harness.cases.document import Items, Node, Table, Text, kind_of, parse_documents, place_at
from harness.cases.source import Place, Source, read_source, shown_path
from harness.cases.suggest import closest, did_you_mean
from harness.errors import PolicyFileError
from harness.model.cluster import CIDRGroup
from harness.model.verdict import PolicyRef
from harness.policy.fields import unknown_in

if TYPE_CHECKING:
    from harness.cases.case import PolicyObject

KNP, CNP, CCNP, CIDR_GROUP = "NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup"
POLICY_KINDS = (CNP, CCNP, KNP)
_VERSIONS = {
    CNP: ("cilium.io/v2",),
    CCNP: ("cilium.io/v2",),
    KNP: ("networking.k8s.io/v1",),
    CIDR_GROUP: ("cilium.io/v2", "cilium.io/v2alpha1"),
}
SUPPORTED_KINDS = tuple(_VERSIONS)


class ManifestObject(Struct, frozen=True):
    """One object of a manifest or of `policies:`, as typed values, with the places that later errors need."""

    kind: str
    name: str
    namespace: str | None
    """As written; None where the case's is to be filled in."""
    document: Mapping[str, Any]
    place: Place
    name_place: Place
    table: Table
    """The object as written."""

    def policy(self, default_namespace: str) -> PolicyObject:
        """The object as cases apply it, with its namespace filled in."""
        # Imported here: a question about manifests needs no cases, and they take a tenth of its time to import.
        from harness.cases.case import PolicyObject

        return PolicyObject(self.ref(default_namespace), self.filled(default_namespace), self.name_place.location)

    def ref(self, default_namespace: str) -> PolicyRef:
        """What it is known by, in that namespace where it names none."""
        return PolicyRef(self.kind, "" if self.kind == CCNP else self.namespace or default_namespace, self.name)

    def filled(self, default_namespace: str) -> Mapping[str, Any]:
        """The document, with its namespace filled in."""
        if self.kind == CCNP or self.namespace is not None:
            return self.document
        return {**self.document, "metadata": {**self.document["metadata"], "namespace": default_namespace}}

    def cidr_group(self) -> CIDRGroup:
        """The CIDR group that a CiliumCIDRGroup is."""
        spec = self.document.get("spec")
        cidrs = spec.get("externalCIDRs") if isinstance(spec, Mapping) else None
        if not isinstance(cidrs, list):
            raise policy_error(self.name_place, f"{CIDR_GROUP} {self.name} needs `spec.externalCIDRs`, a list of CIDRs")
        for cidr in cidrs:
            try:
                ipaddress.ip_network(str(cidr), strict=False)
            except ValueError:
                raise policy_error(self.name_place, f"{CIDR_GROUP} {self.name}: `{cidr}` is no CIDR") from None
        labels = self.document["metadata"].get("labels")
        return CIDRGroup(self.name, tuple(cidrs), dict(labels) if isinstance(labels, Mapping) else {})


class Manifests:
    """Reads manifest files, each once."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[ManifestObject, ...]] = {}

    def objects(self, written: Text, folder: Path) -> tuple[ManifestObject, ...]:
        """The objects of the manifest that a case names by a path relative to its own folder."""
        path = folder / written
        if path not in self._read:
            self._check(written, path)
            self._read[path] = tuple(_file_objects(read_source(path, error=PolicyFileError)))
        objects = self._read[path]
        if not objects:
            raise policy_error(written.place, f"there is no object in {shown_path(path)}")
        return objects

    @staticmethod
    def _check(written: Text, path: Path) -> None:
        def error(message: str, hint: str | None) -> PolicyFileError:
            place = written.place
            return PolicyFileError(message, location=place.location, source_line=place.source.line(place.line), hint=hint)

        if path.is_dir():
            inside = sorted(each.name for each in path.iterdir() if each.suffix in (".yaml", ".yml", ".json"))
            raise error(f"{written} is a folder", f"name its manifests: {', '.join(inside)}" if inside else None)
        if path.is_file():
            return
        if not path.parent.is_dir():
            raise error(f"there is no manifest {written}: no folder {shown_path(path.parent)}", "paths are relative to the case file")
        match = closest(path.name, (each.name for each in path.parent.iterdir()))
        hint = f"did you mean `{written.removesuffix(path.name)}{match}`?" if match else "paths are relative to the case file"
        raise error(f"there is no manifest {written} (looked for {shown_path(path)})", hint)


def _file_objects(source: Source) -> Iterator[ManifestObject]:
    for document in parse_documents(source):
        yield from objects_of(document)


def objects_of(node: Node) -> Iterator[ManifestObject]:
    """The objects that a document (or an item of `policies:`) is: one, or the items of a List."""
    if not isinstance(node, Table):
        raise policy_error(node.place, f"expected a Kubernetes object (a mapping), found {kind_of(node)}")
    kind_node = node.get("kind")
    if kind_node is None:
        raise policy_error(node.place, "a Kubernetes object needs `kind`", f"supported: {', '.join(SUPPORTED_KINDS)}")
    if isinstance(kind_node, Text) and (
        kind_node == "List" or (kind_node.endswith("List") and kind_node.removesuffix("List") in SUPPORTED_KINDS)
    ):
        items = node.get("items")
        if not isinstance(items, Items):
            raise policy_error(node.place, f"a {kind_node} needs `items`, a list of objects")
        for item in items:
            yield from objects_of(item)
        return
    yield _object(node, kind_node)


def policy_error(place: Place, message: str, hint: str | None = None) -> PolicyFileError:
    """An error about a policy object, wherever it is written."""
    return PolicyFileError(message, location=place.location, source_line=place.source.line(place.line), hint=hint)


def _object(table: Table, kind_node: Node) -> ManifestObject:
    if not isinstance(kind_node, Text) or kind_node not in SUPPORTED_KINDS:
        hint = did_you_mean(kind_node, SUPPORTED_KINDS, noun="supported") if isinstance(kind_node, Text) else None
        if hint and not hint.startswith("supported"):
            hint += f" (supported: {', '.join(SUPPORTED_KINDS)})"
        found = f"`{kind_node}`" if isinstance(kind_node, Text) else kind_of(kind_node)
        raise policy_error(kind_node.place, f"unknown kind {found}: no network policy", hint)
    kind = str(kind_node)
    version = _text(table, "apiVersion", f"a {kind}")
    if version not in _VERSIONS[kind]:
        raise policy_error(version.place, f"there is no {kind} in `{version}`", f"write apiVersion: {_VERSIONS[kind][0]}")
    metadata = table.get("metadata")
    if not isinstance(metadata, Table):
        raise policy_error(table.place, f"a {kind} needs `metadata` with a `name`")
    name = _text(metadata, "name", f"the metadata of a {kind}")
    namespace = _text(metadata, "namespace", "metadata") if "namespace" in metadata else None
    if namespace is not None and kind in (CCNP, CIDR_GROUP):
        raise policy_error(metadata.key("namespace").place, f"a {kind} is cluster-wide: it has no namespace", "remove `namespace`")
    document = plain(table)
    if kind in POLICY_KINDS and (unknown := unknown_in(document)) is not None:
        place = place_at(table, unknown.path)
        hint = f"{did_you_mean(unknown.name, unknown.known)} A cluster drops it, and the policy means something else without it"
        raise policy_error(place, f"unknown field `{unknown.name}` in {kind} {name}: {unknown.path}", hint)
    return ManifestObject(kind, str(name), str(namespace) if namespace is not None else None, document, table.place, name.place, table)


def _text(table: Table, key: str, owner: str) -> Text:
    if key not in table:
        near = closest(key, table)
        raise policy_error(table.place, f"{owner} needs `{key}`", f"did you mean `{key}` by `{near}`?" if near else None)
    node = table[key]
    if not isinstance(node, Text) or not isinstance(node.value, str) or not node.strip():
        hint = f'quote this: {key}: "{node}"' if isinstance(node, Text) and not node.null else None
        raise policy_error(table.place_of(key), f"`{key}` must be a text, not {kind_of(node)}", hint)
    return node


def plain(node: Node) -> Any:
    """The node as JSON values, as `kubectl` would send them: YAML 1.1 types, keys as texts."""
    if isinstance(node, Text):
        return node.value
    if isinstance(node, Items):
        return [plain(each) for each in node]
    return {_key(key): plain(value) for key, value in node.entries()}


def _key(key: Text) -> str:
    value = key.value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(key) if value is None or isinstance(value, str) else str(value)
