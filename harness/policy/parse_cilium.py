"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy documents to typed rules, checked as the agent's sanitizer checks them.

The document has passed `crd` before. Sources: pkg/policy/api/rule_validation.go, pkg/policy/utils/parserules.go and
pkg/k8s/apis/cilium.io/utils/utils.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.model.labels import CIDR_GROUP, RESERVED
from harness.model.traffic import Direction
from harness.model.verdict import PolicyRef, RuleRef
from harness.policy import selector
from harness.policy.entities import ENTITIES, entity_selectors
from harness.policy.options import Options
from harness.policy.parse_ports import parse_icmps, parse_port_rules
from harness.policy.rules import (
    CILIUM_NETWORK_POLICY,
    AuthMode,
    CIDRGroupSelector,
    CIDRSelector,
    FQDNSelector,
    GroupsSelector,
    LabelSelector,
    PeerSelector,
    PortRule,
    Requirement,
    Rule,
    ServiceSelector,
)
from harness.policy.validate import agent, cidr, excepts, fqdn

Document = Mapping[str, Any]

_LISTS = (
    ("ingress", Direction.INGRESS, False),
    ("ingressDeny", Direction.INGRESS, True),
    ("egress", Direction.EGRESS, False),
    ("egressDeny", Direction.EGRESS, True),
)
_RESOURCE_KINDS = {True: "cnp", False: "ccnp"}


def parse_cilium(document: Document, ref: PolicyRef, options: Options) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """The rules of `spec` and `specs`, in Cilium's order, and remarks on what they ask for in vain. Raises Refusal."""
    specs = [("spec", document["spec"])] if document.get("spec") is not None else []
    specs += [(f"specs[{index}]", each) for index, each in enumerate(document.get("specs") or ())]
    if not specs and document.get("specs") is None:
        raise agent("", f"Invalid {ref.kind} spec(s): empty policy")
    rules: list[Rule] = []
    remarks: list[str] = []
    for path, spec in specs:
        parser = _SpecParser(path, spec, ref, options)
        rules += parser.rules(len(rules))
        remarks += parser.remarks
    return tuple(rules), tuple(remarks)


class _SpecParser:
    """One rule specification: the subject, default deny, and the elements of its four lists."""

    def __init__(self, path: str, spec: Document, ref: PolicyRef, options: Options) -> None:
        self.path = path
        self.spec = spec
        self.ref = ref
        self.options = options
        self.remarks: list[str] = []

    def rules(self, offset: int) -> Iterator[Rule]:
        options = self.options
        elements = {name: self.spec.get(name) or () for name, _, _ in _LISTS}
        if not any(elements.values()):
            raise agent(self.path, "rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny")
        subject, node, matches_init = self._subject()
        default_deny = self._default_deny(elements)
        prefix = "" if self.path == "spec" else f"{self.path}."
        resource = f"{_RESOURCE_KINDS[bool(self.ref.namespace)]}/{self.ref.namespace}/{self.ref.name}"
        index = offset
        for name, direction, deny in _LISTS:
            for at, each in enumerate(elements[name]):
                path = f"{self.path}.{name}[{at}]"
                element = _Element(each, path, direction, deny, node, self.ref.namespace, matches_init, options)
                peers, services = element.peers()
                ports = element.ports()
                auth = None if deny or each.get("authentication") is None else AuthMode(each["authentication"]["mode"])
                yield Rule(
                    ref=RuleRef(self.ref, f"{prefix}{name}[{at}]"),
                    direction=direction,
                    deny=deny,
                    default_deny=default_deny[direction],
                    subject=subject,
                    node=node,
                    peers=peers,
                    ports=ports,
                    services=services,
                    auth=auth,
                    order=(resource, index),
                    endpoints=bool(each.get(f"{element.way}Endpoints")),
                    requires=element.requires(),
                )
                index += 1

    def _subject(self) -> tuple[LabelSelector, bool, bool]:
        endpoint, node = self.spec.get("endpointSelector"), self.spec.get("nodeSelector")
        if endpoint is not None:
            draft = selector.cilium_draft(endpoint, f"{self.path}.endpointSelector", self.options)
            matches_init = draft.has_key("init", RESERVED)
            return selector.subject(draft, self.ref.namespace), False, matches_init
        draft = selector.cilium_draft(node or {}, f"{self.path}.nodeSelector", self.options)
        if self.ref.kind == CILIUM_NETWORK_POLICY:
            raise agent(f"{self.path}.nodeSelector", "Invalid CiliumNetworkPolicy spec: rule cannot have NodeSelector")
        return draft.done(), True, False

    def _default_deny(self, elements: Mapping[str, Sequence[Document]]) -> Mapping[Direction, bool]:
        stated = self.spec.get("enableDefaultDeny") or {}
        found = {}
        for direction in Direction:
            present = bool(elements[direction.value] or elements[f"{direction.value}Deny"])
            value = stated.get(direction.value)
            if not self.options.non_default_deny:
                value = True
            if value and not present and stated.get(direction.value):
                self.remarks.append(
                    f"{self.path}.enableDefaultDeny.{direction.value} is true, but there is no {direction.value} or "
                    f"{direction.value}Deny element to carry it: write `{direction.value}: [{{}}]`"
                )
            found[direction] = present if value is None else bool(value)
        return found


class _Element:
    """One item of ingress, ingressDeny, egress or egressDeny."""

    def __init__(
        self,
        document: Document,
        path: str,
        direction: Direction,
        deny: bool,
        host: bool,
        namespace: str,
        matches_init: bool,
        options: Options,
    ) -> None:
        self.document = document
        self.path = path
        self.ingress = direction is Direction.INGRESS
        self.deny = deny
        self.host = host
        self.namespace = namespace
        self.matches_init = matches_init
        self.options = options
        self.way = "from" if self.ingress else "to"

    def _list(self, suffix: str) -> Sequence[Any] | None:
        found: Sequence[Any] | None = self.document.get(f"{self.way}{suffix}")
        return found

    def peers(self) -> tuple[tuple[PeerSelector, ...] | None, tuple[ServiceSelector, ...]]:
        """The peers and the services. An empty list of a kind that counts makes the whole element select nobody."""
        self._check_one_kind()
        if self._list("Nodes") and not self.options.node_selector_labels:
            raise agent(
                f"{self.path}.{self.way}Nodes",
                'FromNodes/ToNodes rules can only be applied when the "enable-node-selector-labels" flag is set',
            )
        found: list[PeerSelector] = [*self._selectors("Endpoints"), *self._nodes(), *self._entities(), *self._cidrs(), *self._cidr_sets()]
        services = self._services()
        found += self._fqdns()
        found += (GroupsSelector(str(each)) for each in self._list("Groups") or ())
        nobody = any(
            each is not None and not each
            for each in (self._list(suffix) for suffix in ("Endpoints", "Nodes", "Entities", "CIDR", "CIDRSet"))
        )
        # Of peers that are listed twice Cilium keeps one.
        return None if nobody else tuple(dict.fromkeys(found)), services

    def requires(self) -> tuple[Requirement, ...]:
        """What fromRequires/toRequires ask, all of it; the schema has no item of them after Cilium 1.18."""
        return tuple(requirement for each in self._selectors("Requires") for requirement in each.requirements)

    def _check_one_kind(self) -> None:
        suffixes = ["Endpoints", "CIDR", "CIDRSet", "Entities", "Nodes", "Groups"]
        if not self.ingress:
            suffixes += ["Services"] if self.deny else ["Services", "FQDNs"]
        present = sorted(f"{self.way.title()}{suffix}" for suffix in suffixes if self._list(suffix))
        if len(present) > 1:
            raise agent(self.path, f"combining {present[0]} and {present[1]} is not supported yet")

    def _selectors(self, suffix: str) -> Iterator[LabelSelector]:
        for index, each in enumerate(self._list(suffix) or ()):
            draft = selector.cilium_draft(each, f"{self.path}.{self.way}{suffix}[{index}]", self.options)
            yield selector.peer(draft, self.namespace, self.options, matches_init=self.matches_init)

    def _nodes(self) -> Iterator[PeerSelector]:
        for index, each in enumerate(self._list("Nodes") or ()):
            draft = selector.cilium_draft(each, f"{self.path}.{self.way}Nodes[{index}]", self.options)
            yield selector.node_peer(draft, self.options)

    def _entities(self) -> Iterator[PeerSelector]:
        for index, each in enumerate(self._list("Entities") or ()):
            if each not in ENTITIES:
                raise agent(f"{self.path}.{self.way}Entities[{index}]", f"unsupported entity: {each}")
            yield from entity_selectors(each, self.options)

    def _cidrs(self) -> Iterator[PeerSelector]:
        for index, each in enumerate(self._list("CIDR") or ()):
            yield CIDRSelector(cidr(each, f"{self.path}.{self.way}CIDR[{index}]", bare=not self.options.at_least(1, 20)))

    def _cidr_sets(self) -> Iterator[PeerSelector]:
        for index, each in enumerate(self._list("CIDRSet") or ()):
            path = f"{self.path}.{self.way}CIDRSet[{index}]"
            kinds = [bool(each.get("cidrGroupRef")), bool(each.get("cidr")), each.get("cidrGroupSelector") is not None]
            if sum(kinds) == 0:
                raise agent(path, "one of cidr, cidrGroupRef, or cidrGroupSelector is required")
            if sum(kinds) > 1:
                raise agent(path, "more than one of cidr, cidrGroupRef, or cidrGroupSelector may not be set")
            exceptions = each.get("except") or ()
            if each.get("cidr"):
                prefix = cidr(each["cidr"], f"{path}.cidr")
                yield CIDRSelector(prefix, excepts(prefix, exceptions, each["cidr"], f"{path}.except", self.options))
                continue
            outside = tuple(cidr(text, f"{path}.except[{at}]") for at, text in enumerate(exceptions))
            if each.get("cidrGroupRef"):
                yield CIDRGroupSelector(name=each["cidrGroupRef"], excepts=outside)
            else:
                draft = selector.cilium_draft(each["cidrGroupSelector"], f"{path}.cidrGroupSelector", self.options, prefix=f"{CIDR_GROUP}.")
                yield CIDRGroupSelector(labels=draft.done(), excepts=outside)

    def _services(self) -> tuple[ServiceSelector, ...]:
        if self.ingress:
            return ()
        found = []
        for index, each in enumerate(self._list("Services") or ()):
            by_name, by_labels = each.get("k8sService"), each.get("k8sServiceSelector")
            if by_labels is not None:
                path = f"{self.path}.toServices[{index}].k8sServiceSelector.selector"
                draft = selector.cilium_draft(by_labels["selector"], path, self.options)
                found.append(ServiceSelector(by_labels.get("namespace") or "", labels=draft.done()))
            if by_name is not None:
                found.append(ServiceSelector(by_name.get("namespace") or "", name=by_name.get("serviceName") or ""))
        # Services are resolved for allow rules only; in deny rules they stay unresolved.
        return () if self.deny else tuple(found)

    def _fqdns(self) -> Iterator[PeerSelector]:
        if self.ingress or self.deny:
            return
        for index, each in enumerate(self._list("FQDNs") or ()):
            name, pattern = each.get("matchName") or "", each.get("matchPattern") or ""
            fqdn(name, pattern, f"{self.path}.toFQDNs[{index}]")
            yield FQDNSelector(name, pattern)

    def ports(self) -> tuple[PortRule, ...]:
        """toPorts, or icmps in its place."""
        to_ports, icmps = self.document.get("toPorts") or (), self.document.get("icmps") or ()
        if icmps and not self.options.icmp_rules:
            raise agent(f"{self.path}.icmps", 'ICMP rules can only be applied when the "enable-icmp-rules" flag is set')
        if icmps and to_ports:
            raise agent(
                f"{self.path}.icmps",
                "the ICMPs block may only be present without ToPorts. Define a separate rule to use ToPorts",
            )
        rules = parse_port_rules(
            to_ports, f"{self.path}.toPorts", ingress=self.ingress, deny=self.deny, host=self.host, options=self.options
        )
        return rules + parse_icmps(icmps, f"{self.path}.icmps")
