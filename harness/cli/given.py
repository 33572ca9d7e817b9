"""Policies and workloads out of the same files, each object known by its kind, and where every policy is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from harness.cases.document import Items, Node, Table, parse_documents, place_at
from harness.cases.manifests import CIDR_GROUP, POLICY_KINDS, ManifestObject, objects_of, plain, policy_error
from harness.cases.source import Place, Source
from harness.cases.suggest import did_you_mean
from harness.model.cluster import ClusterState
from harness.model.verdict import PolicyRef, RuleRef
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.parse import DEFAULT_NAMESPACE
from harness.policy.prefix import Prefix, parse_prefix
from harness.policy.repository import Repository, prefixes_of
from harness.policy.workloads import UNPLACED, WORKLOAD_KINDS, Manifest, read_workloads

_KINDS = tuple(dict.fromkeys((*POLICY_KINDS, *WORKLOAD_KINDS)))


class Given(Struct, frozen=True):
    """What files hold together."""

    state: ClusterState
    policies: Mapping[PolicyRef, ManifestObject]
    repository: Repository

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.state, self.repository)

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """Those that policies and CIDR groups name."""
        grouped = (parse_prefix(each) for group in self.state.cidr_groups for each in group.cidrs)
        return (*(prefix for policy in self.repository.enforced for prefix in prefixes_of(policy)), *grouped)

    def warnings(self) -> Iterator[str]:
        """A line for each policy that is refused: nothing of it is enforced."""
        for ref, error in self.repository.errors.items():
            place = self.place(ref)
            yield f"warning: {f'{place.location}: ' if place else ''}{ref} is refused, nothing of it is enforced: {error}"

    def place(self, ref: RuleRef | PolicyRef) -> Place | None:
        """Where a rule (or a policy: its name) is written; None for what Cilium adds itself."""
        found = self.policies.get(ref.policy if isinstance(ref, RuleRef) else ref)
        if found is None:
            return None
        if isinstance(ref, PolicyRef):
            return found.name_place
        return place_at(found.table, ref.path if ref.path.startswith("spec") else f"spec.{ref.path}")


def given(sources: Iterable[Source], options: Options) -> Given:
    """What the sources hold. PolicyFileError, with its place, for what is neither a policy nor a workload."""
    manifests: list[Manifest] = []
    policies: list[ManifestObject] = []
    for source in sources:
        for document in parse_documents(source):
            for table in _tables(document):
                if str(table["kind"]) in POLICY_KINDS:
                    policies += objects_of(table)
                else:
                    if str(table["kind"]) == CIDR_GROUP:
                        list(objects_of(table))  # its version and fields are checked as those of policies
                    manifests.append(Manifest(plain(table), table.place.location))
    state = _placed(read_workloads(manifests).state)
    objects = {each.ref(DEFAULT_NAMESPACE): each for each in policies}
    applied = [each.filled(DEFAULT_NAMESPACE) for each in policies]
    return Given(state, objects, Repository.empty(options).change(apply=applied))


def _placed(state: ClusterState) -> ClusterState:
    """Pods that name no node are on the first Node there is."""
    if not state.nodes or UNPLACED in state.nodes:
        return state
    first = next(iter(state.nodes))
    return replace(state, pods=tuple(replace(pod, node=first) if pod.node == UNPLACED else pod for pod in state.pods))


def lines_of(place: Place) -> list[str]:
    """The lines of the item that begins at a place: all that stand deeper than its first, without their common indent."""
    source, first = place.source, place.source.line(place.line)
    depth = len(first) - len(first.lstrip())
    found = [first]
    for number in range(place.line + 1, source.first_line + len(source.lines)):
        line = source.line(number)
        if number > place.end_line and line.strip() and len(line) - len(line.lstrip()) <= depth:
            break
        found.append(line)
    return [line[depth:].rstrip() for line in found if line.strip()]


def _tables(node: Node) -> Iterator[Table]:
    if not isinstance(node, Table):
        raise policy_error(node.place, "expected a Kubernetes object (a mapping)")
    kind = node.get("kind")
    if kind is None:
        raise policy_error(node.place, "a Kubernetes object needs `kind`", f"supported: {', '.join(_KINDS)}")
    if str(kind).endswith("List") and (str(kind) == "List" or str(kind).removesuffix("List") in _KINDS):
        items = node.get("items")
        if not isinstance(items, Items):
            raise policy_error(node.place, f"a {kind} needs `items`, a list of objects")
        for item in items:
            yield from _tables(item)
        return
    if str(kind) not in _KINDS:
        raise policy_error(node.place_of("kind"), f"unknown kind `{kind}`: neither policy nor workload", did_you_mean(str(kind), _KINDS))
    yield node
