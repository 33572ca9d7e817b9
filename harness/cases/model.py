"""A case file's raw document: its keys and the kinds of their values. What they mean together is `resolve` and `phases`.

The editor's schema (schema.json) is made from these models, so descriptions are written for who hovers over a key.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from harness.cases.case import Action, Reason, Serve
from harness.cases.document import Items, Node, Table, Text, kind_of
from harness.cases.raw import Raw, made
from harness.cases.scalars import (
    AddressField,
    BooleanField,
    CiliumField,
    DirectionField,
    DnsNameField,
    DurationField,
    FamilyField,
    FeatureField,
    HeadersField,
    LabelsField,
    NameField,
    NodeField,
    ObjectField,
    OtherwiseField,
    PortField,
    PortNameField,
    ProseField,
    ProtocolField,
    ReasonsField,
    ReplicasField,
    SentenceField,
    ServeField,
    Shorthand,
    StatusField,
    TagField,
    TargetPortField,
    TextField,
    TitleField,
    TtlField,
)
from harness.cases.traps import quoted
from harness.errors import HarnessError
from harness.model.traffic import Protocol


def _from_port(value: Any) -> Any:
    if not isinstance(value, Text):
        return value
    if "/" in value:
        port, _, protocol = value.partition("/")
        raise value.error(f"expected a port number, found {kind_of(value)}", hint=f"write {{port: {port}, protocol: {protocol}}}")
    return made(value.place, port=value)


class PortModel(Raw):
    """A port that is served."""

    noun: ClassVar[str] = "a port"
    port: PortField = Field(description="The port number.")
    protocol: ProtocolField = Field(default=Protocol.TCP, description="TCP (default), UDP or SCTP.")
    name: PortNameField | None = Field(default=None, description="A name, usable instead of the number in expectations and in policies.")
    serve: ServeField = Field(
        default=Serve.AUTO,
        description="What the port answers: auto (default: tells a TLS hello, HTTP/1, HTTP/2 and raw bytes apart), http, grpc, tls, echo, "
        "sink (UDP without an answer) or dns.",
    )


Port = Annotated[PortModel, Shorthand(_from_port, {"type": "integer", "minimum": 1, "maximum": 65535, "description": "A TCP port."})]


class EndpointModel(Raw):
    """A client or server: one pod, or several alike."""

    noun: ClassVar[str] = "an endpoint"
    namespace: NameField | None = Field(default=None, description="Its namespace; else the case's.")
    labels: LabelsField = Field(default_factory=dict, description="Its labels. Values are text exactly as written: `no` is the text no.")
    service_account: NameField | None = Field(default=None, alias="serviceAccount", description="Its Kubernetes service account.")
    replicas: ReplicasField = Field(default=1, description="How many pods; every one is probed. Default 1.")
    node: NodeField | None = Field(default=None, description="An abstract node: a, b, ... Else the harness spreads pods over nodes.")
    ports: list[Port] = Field(default_factory=list, description="What it serves: numbers (TCP), or {port, protocol, name, serve}.")
    host_network: BooleanField = Field(
        default=False, alias="hostNetwork", description="On its node's network: Cilium sees the node (host, remote-node), not the pod."
    )


class ServicePortModel(Raw):
    """A port of a service."""

    noun: ClassVar[str] = "a service port"
    port: PortField = Field(description="The port clients dial.")
    target_port: TargetPortField | None = Field(
        default=None, alias="targetPort", description="The port of the backends, by number or name; default: the same."
    )
    protocol: ProtocolField = Field(default=Protocol.TCP, description="TCP (default), UDP or SCTP.")
    name: PortNameField | None = Field(default=None, description="A name, usable in expectations.")


ServicePort = Annotated[
    ServicePortModel,
    Shorthand(_from_port, {"type": "integer", "minimum": 1, "maximum": 65535, "description": "A TCP port, the same on both sides."}),
]


class ServiceModel(Raw):
    """A Kubernetes Service in front of endpoints."""

    noun: ClassVar[str] = "a service"
    selector: LabelsField = Field(description="Labels of its backends, which are endpoints of its namespace.")
    ports: list[ServicePort] = Field(description="Its ports: numbers, or {port, targetPort, protocol, name}.")
    namespace: NameField | None = Field(default=None, description="Its namespace; else the case's.")
    type: TextField | None = Field(default=None, description="ClusterIP (default), NodePort or LoadBalancer.")
    headless: BooleanField = Field(default=False, description="Without a ClusterIP: its name resolves to the backends.")


class ExternalModel(Raw):
    """Something outside the cluster, served by the harness itself: nothing leaves the machine."""

    noun: ClassVar[str] = "an external"
    names: list[DnsNameField] = Field(default_factory=list, description="DNS names that resolve to it.")
    address: AddressField | None = Field(default=None, description="Its one address.")
    addresses: list[AddressField] = Field(
        default_factory=list, description="Its addresses, at most one per family; else the harness picks."
    )
    ports: list[Port] = Field(default_factory=list, description="What it serves.")
    ttl: TtlField | None = Field(default=None, description="How many seconds the answers to lookups of its names are good for; else 30.")


class RequiresModel(Raw):
    """What a cluster must have for this to run; else it is skipped with the reason. What the content needs is derived by itself."""

    noun: ClassVar[str] = "requires"
    cilium: CiliumField | None = Field(default=None, description='A version specifier, quoted: ">=1.16".')
    features: list[FeatureField] = Field(default_factory=list, description='Features by name; "!name" requires the absence.')


class HttpModel(Raw):
    """An HTTP request in its long form."""

    noun: ClassVar[str] = "http"
    method: TextField | None = Field(default=None, description="GET by default.")
    path: TextField | None = Field(default=None, description="Begins with /; default /.")
    host: TextField | None = Field(default=None, description="The Host header (:authority); else the target's name.")
    headers: HeadersField = Field(default=(), description="Headers by name.")


class ExpectationModel(Raw):
    """Who may or may not reach whom: `sources -> targets [request]`."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["allow"]}, {"required": ["deny"]}, {"required": ["audit"]}]},
    )
    noun: ClassVar[str] = "an expectation"
    allow: SentenceField | None = Field(default=None, description='Must get through: "client -> server:8080 GET /path". Lists with commas.')
    deny: SentenceField | None = Field(default=None, description='Must be dropped by policy: "client -> server:8080".')
    audit: SentenceField | None = Field(default=None, description="Must get through with an AUDIT verdict (policy audit mode).")
    reason: ReasonsField = Field(
        default=frozenset[Reason](), description="Why it must be dropped: default-deny, deny-rule, l7 or auth; or a list of those allowed."
    )
    at: DirectionField | None = Field(
        default=None, description="The side that drops it first: egress (the source's) or ingress (the target's)."
    )
    by: TextField | None = Field(default=None, description="The policy that must be deciding: [Kind/][namespace/]name.")
    status: StatusField | None = Field(default=None, description="The answer's HTTP code or gRPC status; needs a request.")
    headers: HeadersField | None = Field(default=None, description="Headers of the HTTP request.")
    http: HttpModel | None = Field(default=None, description="The HTTP request in its long form, instead of one in the text.")
    family: FamilyField | None = Field(default=None, description="ipv4 (default), ipv6 or both. What the cluster lacks is skipped.")
    timeout: DurationField | None = Field(default=None, description="How long to wait for an answer: 3s, 200ms, or seconds.")
    within: DurationField | None = Field(default=None, description="How long enforcement may take; the time it took is reported.")
    undeclared: BooleanField = Field(default=False, description="The target declares no such port (deny only: proven by its drop).")

    @classmethod
    def unknown(cls, table: Table, key: Text, known: tuple[str, ...]) -> HarnessError:
        action = next((each for each in table if each in ("allow", "deny", "audit")), None)
        if action is not None and table.flow and not cls._says(table, key):
            parts = [str(table[action])]
            parts += [str(each) for each in table.texts() if each not in known and not cls._says(table, each)]
            return key.error(
                "inside braces YAML splits the text at its comma", hint=f"quote this: {{{action}: {quoted(', '.join(parts))}}}"
            )
        if action is None and "->" in key:
            said = str(table[key])
            whole = f"{key}: {said}" if said else str(key)
            first, _, rest = whole.partition(" ")
            if first in ("allow", "deny", "audit"):
                return key.error(f"`:` is missing after `{first}`", hint=f"write {first}: {rest}")
            return key.error(
                "an expectation begins with `allow:`, `deny:` or `audit:`", hint=f"write allow: {quoted(whole) if said else whole}"
            )
        return super().unknown(table, key, known)

    @staticmethod
    def _says(table: Table, key: Text) -> bool:
        value: Node = table[key]
        return not (isinstance(value, Text) and value.null)

    @property
    def statement(self) -> tuple[Action, Text]:
        """The action and its text. Raises where there is none, or more than one."""
        said = [
            (action, text)
            for action, text in ((Action.ALLOW, self.allow), (Action.DENY, self.deny), (Action.AUDIT, self.audit))
            if text is not None
        ]
        if not said:
            raise self.place.error("an expectation needs `allow:`, `deny:` or `audit:`", hint="as in `allow: client -> server:8080`")
        if len(said) > 1:
            names = [key for key in self.table.texts() if key in ("allow", "deny", "audit")]
            raise names[1].error(f"one expectation states both `{names[0]}` and `{names[1]}`", hint="write two list items")
        return said[0]


def _expectation(value: Any) -> Any:
    if isinstance(value, Text) and "->" in value:
        raise value.error("an expectation is a mapping, not one text", hint=f"write `{value}` without the quotes around all of it")
    return value


EXPECTATION = "ExpectationModel"
"""The name of the model where the schema of a phase's short form refers to it; `schema` puts the reference in."""
ExpectationItem = Annotated[ExpectationModel, Shorthand(_expectation, None)]


class RejectedModel(Raw):
    """A policy that must be refused."""

    noun: ClassVar[str] = "rejected"
    policy: TextField = Field(description="The policy: [Kind/][namespace/]name.")
    message: TextField | None = Field(default=None, description="Part of the reason that must be given.")


Rejection = Annotated[
    RejectedModel,
    Shorthand(lambda value: made(value.place, policy=value) if isinstance(value, Text) else value, {"type": "string"}),
]


def _one_or_list(value: Any) -> Any:
    if isinstance(value, Text):
        items = Items([value])
        items.place = value.place
        return items
    return value


class PhaseModel(Raw):
    """A step: one change of policies, then what must hold. State is cumulative."""

    noun: ClassVar[str] = "a phase"
    requires: RequiresModel | None = Field(default=None, description="What this phase needs besides what the case needs.")
    remove: list[TextField] = Field(default_factory=list, description="Policies to remove first: [Kind/][namespace/]name.")
    apply: Annotated[list[TextField], Shorthand(_one_or_list, {"type": "string"})] = Field(
        default_factory=list, description="Manifests to apply: a path or a list of paths, relative to this file."
    )
    policies: list[ObjectField] = Field(default_factory=list, description="Policies written here, as Kubernetes objects.")
    expect: list[ExpectationItem] = Field(default_factory=list, description="What must hold now.")
    otherwise: OtherwiseField | None = Field(
        default=None, description="Closed world: what must hold for every source, target and declared port that `expect` does not name."
    )
    inert: list[TextField] = Field(default_factory=list, description="Policies that are meant to do nothing.")
    rejected: list[Rejection] = Field(
        default_factory=list, description="Policies that are meant to be refused: names, or {policy, message}."
    )


def _phase(value: Any) -> Any:
    if isinstance(value, Items):
        return made(value.place, expect=value)
    return value


Phase = Annotated[PhaseModel, Shorthand(_phase, {"type": "array", "minItems": 1, "items": {"title": EXPECTATION}})]


def _nothing(value: Any) -> Any:
    """A key without a value is a mapping without keys: `web:` declares an endpoint."""
    return made(value.place) if isinstance(value, Text) and value.null else value


Endpoint = Annotated[EndpointModel, Shorthand(_nothing, {"type": "null"})]
External = Annotated[ExternalModel, Shorthand(_nothing, {"type": "null"})]
Labelled = Annotated[LabelsField, Shorthand(_nothing, {"type": "null"})]


class CaseModel(Raw):
    """One case: endpoints, policies and who may reach whom, phase by phase."""

    noun: ClassVar[str] = "a case"
    case: TitleField = Field(description="The case's name, unique in its file; part of the pytest node id.")
    description: ProseField | None = Field(default=None, description="Prose for reports.")
    tags: list[TagField] = Field(default_factory=list, description="pytest marks, so that -m selects the case.")
    requires: RequiresModel | None = Field(
        default=None, description="What the cluster must have; else the case is skipped with the reason."
    )
    namespace: NameField | None = Field(default=None, description="The namespace of whatever names none; default `default`.")
    namespaces: dict[NameField, Labelled] = Field(default_factory=dict, description="Labels of namespaces, where they matter.")
    nodes: dict[NodeField, Labelled] = Field(
        default_factory=dict, description="Labels of nodes (a, b, ...), where a policy's nodeSelector asks for them."
    )
    endpoints: dict[NameField, Endpoint] = Field(default_factory=dict, description="Client and server pods by name.")
    services: dict[NameField, ServiceModel] = Field(default_factory=dict, description="Services by name.")
    externals: dict[NameField, External] = Field(default_factory=dict, description="What is outside the cluster, by name.")
    phases: dict[TitleField, Phase] = Field(description="The steps, in this order. State is cumulative.", min_length=1)


def read_case(node: Node) -> CaseModel:
    """The raw case of one document. Raises the error that points at the first mistake."""
    if not isinstance(node, Table):
        raise node.place.error(f"expected a case (a mapping), found {kind_of(node)}", hint="a case begins with `case: its name`")
    return CaseModel.model_validate(node)
