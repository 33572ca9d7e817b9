"""A policy as rules look at it: as written, with places, and as parsed. And where in files policies are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from harness.cases.document import Items, Node, Table, Text, parse_documents, place_at
from harness.cases.manifests import POLICY_KINDS, plain
from harness.cases.source import Place, Source
from harness.model.traffic import Direction
from harness.model.verdict import PolicyRef, RuleRef
from harness.policy.options import Options
from harness.policy.parse import DEFAULT_NAMESPACE, parse_policy, policy_ref
from harness.policy.rules import CILIUM_CLUSTERWIDE_NETWORK_POLICY, NETWORK_POLICY, Policy, Rule

LISTS = (
    ("ingress", Direction.INGRESS, False),
    ("ingressDeny", Direction.INGRESS, True),
    ("egress", Direction.EGRESS, False),
    ("egressDeny", Direction.EGRESS, True),
)


class Spec(Struct, frozen=True):
    """One rule specification: `spec`, or an item of `specs`."""

    path: str
    table: Table

    def elements(self) -> Iterator[Element]:
        """The items of its lists; what is no mapping is left to the refusal."""
        for key, direction, deny in LISTS:
            items = self.table.get(key)
            for index, node in enumerate(items if isinstance(items, Items) else ()):
                if isinstance(node, Table):
                    yield Element(f"{self.path}.{key}[{index}]", node, direction, deny)

    def of(self, direction: Direction) -> list[Node]:
        """The lists of a direction that are written, empty or not."""
        return [self.table[key] for key, each, _ in LISTS if each is direction and key in self.table]


class Element(Struct, frozen=True):
    """An item of ingress, ingressDeny, egress or egressDeny, as written."""

    path: str
    table: Table
    direction: Direction
    deny: bool

    @property
    def way(self) -> str:
        return "from" if self.direction is Direction.INGRESS else "to"

    def items(self, *keys: str) -> list[tuple[str, Any]]:
        """The items of lists below these keys, each with its path."""
        found = []
        for key in keys:
            node = self.table.get(key)
            if isinstance(node, Items):
                found += [(f"{self.path}.{key}[{index}]", each) for index, each in enumerate(node)]
        return found

    def port_items(self) -> Iterator[tuple[str, Table]]:
        """Items of toPorts (KNP: ports) that name ports, each with its path."""
        for path, item in self.items("toPorts"):
            ports = item.get("ports") if isinstance(item, Table) else None
            for index, port in enumerate(ports if isinstance(ports, Items) else ()):
                if isinstance(port, Table):
                    yield f"{path}.ports[{index}]", port
        for path, port in self.items("ports"):
            if isinstance(port, Table):
                yield path, port

    def l7_items(self, kind: str) -> Iterator[tuple[str, Table]]:
        """The L7 rules of a kind (`http`, `dns`), each with its path."""
        for path, item in self.items("toPorts"):
            rules = item.get("rules") if isinstance(item, Table) else None
            found = rules.get(kind) if isinstance(rules, Table) else None
            for index, each in enumerate(found if isinstance(found, Items) else ()):
                if isinstance(each, Table):
                    yield f"{path}.rules.{kind}[{index}]", each


class LintedPolicy(Struct, frozen=True):
    """A policy object of a file. `unit` numbers what is in force together without workloads: the objects of one file."""

    table: Table
    document: Mapping[str, Any]
    ref: PolicyRef
    parsed: Policy
    unit: int

    @property
    def source(self) -> Source:
        return self.table.place.source

    @property
    def kubernetes(self) -> bool:
        return self.ref.kind == NETWORK_POLICY

    @property
    def clusterwide(self) -> bool:
        return self.ref.kind == CILIUM_CLUSTERWIDE_NETWORK_POLICY

    @property
    def name_place(self) -> Place:
        return self.at("metadata.name")

    def at(self, path: str) -> Place:
        """Where the last key of a path such as `spec.ingress[0].toPorts` stands, or the innermost part of it that is there."""
        return place_at(self.table, path)

    def rule_place(self, ref: RuleRef) -> Place:
        """Where a rule of this policy is written."""
        return self.at(ref.path if ref.path.startswith("specs[") else f"spec.{ref.path}")

    def specs(self) -> Iterator[Spec]:
        """`spec` and the items of `specs`, as far as they are mappings."""
        if isinstance(spec := self.table.get("spec"), Table):
            yield Spec("spec", spec)
        specs = self.table.get("specs")
        for index, each in enumerate(specs if isinstance(specs, Items) else ()):
            if isinstance(each, Table):
                yield Spec(f"specs[{index}]", each)

    def elements(self) -> Iterator[Element]:
        for spec in self.specs():
            yield from spec.elements()

    def selectors(self) -> Iterator[tuple[str, Table]]:
        """Every label selector of endpoints and pods, subjects and peers, with its path."""
        for spec in self.specs():
            for key in ("endpointSelector", "podSelector"):
                if isinstance(found := spec.table.get(key), Table):
                    yield f"{spec.path}.{key}", found
        yield from self.peer_selectors()

    def peer_selectors(self) -> Iterator[tuple[str, Table]]:
        for element in self.elements():
            for path, each in element.items(f"{element.way}Endpoints"):
                if isinstance(each, Table):
                    yield path, each
            for path, each in element.items(element.way):
                pods = each.get("podSelector") if isinstance(each, Table) else None
                if isinstance(pods, Table):
                    yield f"{path}.podSelector", pods

    def rules(self, direction: Direction, *, deny: bool | None = None) -> list[Rule]:
        """The parsed rules of a direction; none where the policy is refused."""
        return [each for each in self.parsed.rules if each.direction is direction and deny in (None, each.deny)]


def selector_keys(path: str, selector: Table) -> Iterator[tuple[str, Text, str]]:
    """The keys that a selector names: the path of each, the key, and its operator (matchLabels: `=`)."""
    labels = selector.get("matchLabels")
    if isinstance(labels, Table):
        for key in labels.texts():
            yield f"{path}.matchLabels.{key}", key, "="
    expressions = selector.get("matchExpressions")
    for index, each in enumerate(expressions if isinstance(expressions, Items) else ()):
        if isinstance(each, Table) and isinstance(key_node := each.get("key"), Text):
            yield f"{path}.matchExpressions[{index}].key", key_node, str(each.get("operator"))


def policies_of(source: Source, unit: int, options: Options) -> Iterator[LintedPolicy]:
    """The network policies of a source; other objects are passed over. Raises the source's error where it is no YAML."""
    for document in parse_documents(source):
        for table in _objects(document):
            values = plain(table)
            ref = policy_ref(values)
            if ref.kind != CILIUM_CLUSTERWIDE_NETWORK_POLICY and not values["metadata"].get("namespace"):
                values = {**values, "metadata": {**values["metadata"], "namespace": DEFAULT_NAMESPACE}}
            yield LintedPolicy(table, values, ref, parse_policy(values, options), unit)


def _objects(node: Node) -> Iterator[Table]:
    """The policies that a document is: itself, or the items of a List."""
    if not isinstance(node, Table) or not isinstance(kind := node.get("kind"), Text):
        return
    if kind.endswith("List") and isinstance(items := node.get("items"), Items):
        for item in items:
            yield from _objects(item)
    elif kind in POLICY_KINDS and isinstance(node.get("metadata"), Table):
        yield node
