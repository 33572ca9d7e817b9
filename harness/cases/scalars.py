"""The kinds of values a case file is made of: names, numbers, durations, choices. Each checks what was written and points at it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, TypeAlias

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from harness.cases.case import Action, FamilyChoice, Reason, Serve
from harness.cases.document import Items, Node, Table, Text, kind_of
from harness.cases.hosts import is_dns_name, no_dns_name
from harness.cases.source import Place
from harness.cases.suggest import did_you_mean
from harness.model.traffic import Direction, Protocol

JsonSchema: TypeAlias = Mapping[str, Any]

FEATURES = (
    "l7-http", "l7-dns", "fqdn", "tls-sni", "auth", "spire", "audit", "icmp", "sctp", "ipv4", "ipv6", "services", "to-services", "cidr-group",
    "host-firewall", "host-endpoints", "externals", "external-sources", "kube-apiserver", "grpc", "clusterwide", "nodes-2", "wireguard",
    "ipsec", "kube-proxy-replacement", "clustermesh",
)  # fmt: skip
"""What a cluster may have or lack, as `requires.features` names it."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Reads a node by a function; the editor's schema is given beside it."""

    read: Callable[[Any], Any]
    schema: JsonSchema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


@dataclass(frozen=True, slots=True, eq=False)
class Shorthand:
    """Lets a shorter form stand for a value: `widen` makes the long form of it, `schema` is what editors see of the short one
    (None: nothing, the short form is only recognised to be refused)."""

    widen: Callable[[Any], Any]
    schema: JsonSchema | None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.widen, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [dict(self.schema), handler(schema)]} if self.schema is not None else handler(schema)


def scalar(node: Node, wanted: str) -> Text:
    """The node, which must be a scalar that says something."""
    if not isinstance(node, Text):
        raise node.place.error(f"expected {wanted}, found {kind_of(node)}")
    if node.null:
        raise node.error(f"expected {wanted}, found nothing")
    return node


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?\Z")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_PORT_NAME = re.compile(r"(?!.*--)(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_TAG = re.compile(r"\w[\w.+:/-]*\Z")
_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?|\.\d+)\s*(?P<unit>ms|s|m)?\Z")


def read_text(node: Node) -> Text:
    """Text that may not be empty; what YAML would make of it (`no`, `1.10`) does not matter."""
    text = scalar(node, "a text")
    if not text.strip():
        raise text.error("expected a text, found an empty one")
    return text


def read_title(node: Node) -> Text:
    """The name of a case or phase: it becomes part of a pytest node id."""
    text = read_text(node)
    check_title(text)
    return text


def check_title(text: Text) -> None:
    if "::" in text:
        raise text.part(text.index("::"), 2).error(
            "a name of a case or phase may not hold `::`", hint="pytest's node ids are FILE::CASE::PHASE"
        )
    if text != text.strip() or "\n" in text.rstrip("\n") or not text.isprintable():
        raise text.error("a name of a case or phase is one line, without blanks at its ends")


def read_name(node: Node) -> Text:
    """A Kubernetes name (RFC 1123 label), used for namespaces, endpoints and services."""
    return check_name(scalar(node, "a name"))


def check_name(text: Text, what: str = "name") -> Text:
    if not _LABEL.match(text) or len(text) > 63:
        lowered = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:63]
        raise text.error(
            f"`{text}` is no valid {what}: lower case letters, digits and `-`, at most 63",
            hint=f"did you mean `{lowered}`?" if lowered and lowered != text else None,
        )
    return text


def read_dns_name(node: Node) -> Text:
    """A DNS name with at least one dot."""
    text = scalar(node, "a DNS name")
    if not is_dns_name(text):
        raise text.error(f"`{text}` is no DNS name", hint=no_dns_name(text) or "a name has a dot, as in `api.example.com`; no wildcard")
    return text


def read_address(node: Node) -> Text:
    """An IPv4 or IPv6 address outside the cluster."""
    text = scalar(node, "an IP address")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        hint = "one address, without a prefix length" if "/" in text else None
        raise text.error(f"`{text}` is no IP address", hint=hint) from None
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise text.error(
            f"{text} cannot be the address of something outside the cluster",
            hint="documentation prefixes are free: 203.0.113.0/24, 2001:db8::/32",
        )
    return text


def read_node(node: Node) -> Text:
    """An abstract node: a, b, ..."""
    text = scalar(node, "a node (a, b, ...)")
    if len(text) != 1 or not "a" <= text <= "z":
        raise text.error(
            f"`{text}` is no abstract node", hint="nodes are called a, b, ...; what they are in a cluster, the harness decides"
        )
    return text


def read_tag(node: Node) -> Text:
    """A pytest mark."""
    text = scalar(node, "a tag")
    if not _TAG.match(text) or text in ("and", "or", "not", "True", "False", "None"):
        raise text.error(f"`{text}` cannot be a pytest mark", hint="one word of letters, digits, `-`, `_` and `.`")
    return text


def read_labels(node: Node) -> dict[str, str]:
    """Kubernetes labels. Values are text exactly as written: `no` is "no" and `1.10` is "1.10"."""
    if not isinstance(node, Table):
        raise node.place.error(f"expected labels (a mapping of texts), found {kind_of(node)}", hint="as in {app: web, tier: front}")
    labels: dict[str, str] = {}
    for key, value in node.entries():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.match(name) or len(name) > 63 or (slash and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", prefix)):
            raise key.error(f"`{key}` is no valid label key", hint="[prefix.example/]name of letters, digits, `-`, `_` and `.`")
        if not isinstance(value, Text):
            raise value.place.error(f"expected the value of label `{key}`, found {kind_of(value)}")
        if not _LABEL_VALUE.match(value) or len(value) > 63:
            raise value.error(f"`{value}` is no valid label value: letters, digits, `-`, `_` and `.`, at most 63")
        labels[str(key)] = str(value)
    return labels


def read_integer(minimum: int, maximum: int, what: str) -> Callable[[Node], int]:
    """A reader of whole numbers between two bounds."""

    def read(node: Node) -> int:
        text = scalar(node, what)
        value = text.value
        if isinstance(value, bool) or not isinstance(value, int):
            hint = f"without quotes: {text}" if text.quoted and text.isdigit() else None
            raise text.error(f"expected {what}, found {kind_of(text)}", hint=hint)
        if not minimum <= value <= maximum:
            raise text.error(f"expected {what} between {minimum} and {maximum}, found {value}")
        return value

    return read


read_port_number = read_integer(1, 65535, "a port number")


def read_port_name(node: Node) -> Text:
    """A port's name (IANA service name): at most 15 characters."""
    text = scalar(node, "a port name")
    if not _PORT_NAME.match(text) or len(text) > 15:
        raise text.error(f"`{text}` is no valid port name: at most 15 lower case letters, digits and `-`, with a letter in it")
    return text


def read_target_port(node: Node) -> int | str:
    """A service's targetPort: number or name."""
    text = scalar(node, "a port number or name")
    return read_port_number(text) if isinstance(text.value, int) else str(read_port_name(text))


def read_boolean(node: Node) -> bool:
    text = scalar(node, "true or false")
    value = text.value
    if not isinstance(value, bool):
        raise text.error(f"expected true or false, found {kind_of(text)}")
    return value


def read_duration(node: Node) -> float:
    """Seconds: a number, or a text such as `3s`, `200ms`, `1m`."""
    text = scalar(node, "a duration such as 3s or 200ms")
    match = _DURATION.match(text)
    if not match:
        raise text.error(f"`{text}` is no duration", hint="seconds, or a number with its unit: 200ms, 3s, 1m")
    seconds = float(match["number"]) * {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}[match["unit"]]
    if seconds <= 0:
        raise text.error("a duration must be longer than nothing")
    return seconds


def read_cilium(node: Node) -> str:
    """A version specifier such as `>=1.16`."""
    text = scalar(node, "a version specifier")
    value = text.value
    if isinstance(value, int | float):
        raise text.error(f"YAML reads the version {text} as the number {value:g}", hint=f'quote this, and say how to compare: ">={text}"')
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        hint = f'say how to compare: ">={text}"' if re.fullmatch(r"v?\d+(\.\d+)*", text) else 'as in ">=1.16", "<1.19" or ">=1.16,<1.20"'
        raise text.error(f"`{text}` is no version specifier", hint=hint) from None
    return str(text)


def read_feature(node: Node) -> str:
    """A feature's name, with `!` in front where it must be absent."""
    text = scalar(node, "a feature")
    name = text.removeprefix("!")
    if name not in FEATURES and not re.fullmatch(r"nodes-\d+", name):
        raise text.error(f"unknown feature `{name}`", hint=did_you_mean(name, FEATURES, noun="features"))
    return str(text)


def read_choice(choices: Iterable[Enum], what: str) -> Callable[[Node], Any]:
    """A reader of one of an enum's values."""
    known: dict[str, Any] = {str(each.value): each for each in choices}

    def read(node: Node) -> Any:
        text = scalar(node, what)
        if text not in known:
            raise text.error(f"`{text}` is no {what}", hint=did_you_mean(text, known, noun="choose from"))
        return known[text]

    return read


def _chosen(choices: Iterable[Enum], what: str, description: str = "") -> Read:
    members = tuple(choices)
    schema: dict[str, Any] = {"enum": [each.value for each in members]}
    return Read(read_choice(members, what), {**schema, "description": description} if description else schema)


def read_reasons(node: Node) -> frozenset[Reason]:
    """One reason, or a list of those allowed."""
    read = read_choice(Reason, "reason")
    if isinstance(node, Items):
        if not node:
            raise node.place.error("an empty list of reasons", hint="leave `reason` away to allow any")
        return frozenset(read(each) for each in node)
    return frozenset((read(node),))


def read_status(node: Node) -> int | str:
    """An HTTP code, or a gRPC status by number or name. Which of them fits, the request decides."""
    text = scalar(node, "a status")
    return text.value if isinstance(text.value, int) and not isinstance(text.value, bool) else str(text)


def read_headers(node: Node) -> tuple[tuple[str, str], ...]:
    """HTTP headers by name; values are text as written."""
    if not isinstance(node, Table):
        raise node.place.error(f"expected headers (a mapping of texts), found {kind_of(node)}", hint="as in {X-Api-Key: secret}")
    headers = []
    for name, value in node.entries():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise name.error(f"`{name}` is no valid header name")
        if not isinstance(value, Text):
            raise value.place.error(f"expected the value of header `{name}`, found {kind_of(value)}")
        headers.append((str(name), str(value)))
    return tuple(headers)


def read_tree(node: Node) -> Node:
    """Anything, as written: read later."""
    return node


def first_place(node: Node) -> Place:
    """Where a node begins."""
    return node.place


_NAME: JsonSchema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
_ANY_TEXT: JsonSchema = {"type": ["string", "number", "boolean"]}
_PORT: JsonSchema = {"type": "integer", "minimum": 1, "maximum": 65535}

SentenceField = Annotated[Text, Read(read_text, {"type": "string", "pattern": "->"})]
ProseField = Annotated[Text, Read(read_text, {"type": "string"})]
NodeField = Annotated[Text, Read(read_node, {"type": "string", "pattern": "^[a-z]$"})]
TextField = Annotated[Text, Read(read_text, _ANY_TEXT)]
TitleField = Annotated[Text, Read(read_title, _ANY_TEXT)]
NameField = Annotated[Text, Read(read_name, _NAME)]
DnsNameField = Annotated[Text, Read(read_dns_name, {"type": "string", "pattern": r"^[^*]+\.[^*]+$"})]
AddressField = Annotated[Text, Read(read_address, {"type": "string"})]
TagField = Annotated[Text, Read(read_tag, _ANY_TEXT)]
LabelsField = Annotated[
    dict[str, str], Read(read_labels, {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}})
]
PortField = Annotated[int, Read(read_port_number, _PORT)]
PortNameField = Annotated[Text, Read(read_port_name, {"type": "string", "maxLength": 15})]
TargetPortField = Annotated[int | str, Read(read_target_port, {"anyOf": [_PORT, {"type": "string", "maxLength": 15}]})]
TtlField = Annotated[int, Read(read_integer(1, 86400, "a TTL in seconds"), {"type": "integer", "minimum": 1, "maximum": 86400})]
ReplicasField = Annotated[int, Read(read_integer(1, 100, "a number of replicas"), {"type": "integer", "minimum": 1, "maximum": 100})]
BooleanField = Annotated[bool, Read(read_boolean, {"type": "boolean"})]
DurationField = Annotated[
    float,
    Read(
        read_duration, {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m)?$"}]}
    ),
]
CiliumField = Annotated[str, Read(read_cilium, {"type": "string", "examples": [">=1.16", "<1.19"]})]
FeatureField = Annotated[
    str,
    Read(
        read_feature,
        {"anyOf": [{"enum": [*FEATURES, *(f"!{each}" for each in FEATURES)]}, {"type": "string", "pattern": r"^!?nodes-\d+$"}]},
    ),
]
ProtocolField = Annotated[Protocol, _chosen((Protocol.TCP, Protocol.UDP, Protocol.SCTP), "protocol of a port")]
ServeField = Annotated[Serve, _chosen(Serve, "way to serve")]
OtherwiseField = Annotated[Action, _chosen((Action.ALLOW, Action.DENY), "`otherwise`")]
DirectionField = Annotated[Direction, _chosen(Direction, "side")]
FamilyField = Annotated[FamilyChoice, _chosen(FamilyChoice, "address family")]
ReasonsField = Annotated[
    frozenset[Reason],
    Read(
        read_reasons,
        {
            "anyOf": [
                {"enum": [each.value for each in Reason]},
                {"type": "array", "minItems": 1, "items": {"enum": [each.value for each in Reason]}},
            ]
        },
    ),
]
StatusField = Annotated[int | str, Read(read_status, {"type": ["integer", "string"]})]
HeadersField = Annotated[
    tuple[tuple[str, str], ...],
    Read(read_headers, {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}),
]
ObjectField = Annotated[Any, Read(read_tree, {"type": "object", "required": ["apiVersion", "kind", "metadata"]})]
