"""The schema of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (one and the same) for each Cilium version.

Transcribed from the CRDs, pkg/k8s/apis/cilium.io/client/crds/v2; the vocabulary is in `schema`.
"""

from __future__ import annotations

from functools import lru_cache

from harness.policy.options import Options
from harness.policy.schema import (
    Check,
    array,
    boolean,
    integer,
    integer_or_string,
    mapping,
    record,
    string,
)

_LABEL_VALUE = string(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_SELECTOR = record({
    "matchLabels": mapping(_LABEL_VALUE),
    "matchExpressions": array(
        record(
            {"key": string(), "operator": string(enum=("In", "NotIn", "Exists", "DoesNotExist")), "values": array(string())},
            required=("key", "operator"),
        )
    ),
})
_PORT_PATTERN = (
    r"^(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})|([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$"
)
_ICMP_TYPE_NAMES = (
    "EchoReply|DestinationUnreachable|Redirect|Echo|RouterAdvertisement|RouterSelection|TimeExceeded|ParameterProblem|Timestamp|"
    "TimestampReply|Photuris|ExtendedEchoRequest|ExtendedEcho Reply|PacketTooBig|ParameterProblem|EchoRequest|MulticastListenerQuery|"
    "MulticastListenerReport|MulticastListenerDone|RouterSolicitation|RouterAdvertisement|NeighborSolicitation|NeighborAdvertisement|"
    "RedirectMessage|RouterRenumbering|ICMPNodeInformationQuery|ICMPNodeInformationResponse|InverseNeighborDiscoverySolicitation|"
    "InverseNeighborDiscoveryAdvertisement|HomeAgentAddressDiscoveryRequest|HomeAgentAddressDiscoveryReply|MobilePrefixSolicitation|"
    "MobilePrefixAdvertisement|DuplicateAddressRequestCodeSuffix|DuplicateAddressConfirmationCodeSuffix"
)
_ICMPS = array(
    record({
        "fields": array(
            record(
                {
                    "family": string(enum=("IPv4", "IPv6")),
                    "type": integer_or_string(pattern=rf"^([0-9]|[1-9][0-9]|1[0-9]{{2}}|2[0-4][0-9]|25[0-5]|{_ICMP_TYPE_NAMES})$"),
                },
                required=("type",),
            ),
            max_items=40,
        )
    })
)
_CIDR_RULE = record(
    {
        "cidr": string(cidr=True),
        "cidrGroupRef": string(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
        "cidrGroupSelector": _SELECTOR,
        "except": array(string(cidr=True)),
    },
    exactly_one=("cidr", "cidrGroupRef", "cidrGroupSelector"),
)
_GROUPS = array(
    record({
        "aws": record({
            "labels": mapping(string()),
            "region": string(),
            "securityGroupsIds": array(string()),
            "securityGroupsNames": array(string()),
        })
    })
)
_SERVICES = array(
    record({
        "k8sService": record({"namespace": string(), "serviceName": string()}),
        "k8sServiceSelector": record({"namespace": string(), "selector": _SELECTOR}, required=("selector",)),
    })
)
_NAME = record(
    {
        "matchName": string(max_length=255, pattern=r"^([-a-zA-Z0-9_]+[.]?)+$"),
        "matchPattern": string(max_length=255, pattern=r"^([-a-zA-Z0-9_*]+[.]?)+$"),
    },
    exactly_one=("matchName", "matchPattern"),
)
_SECRET = record({"name": string(), "namespace": string()}, required=("name",))
_TLS = record(
    {"secret": _SECRET, "certificate": string(), "privateKey": string(), "trustedCA": string()},
    required=("secret",),
)
_LISTENER = record(
    {
        "envoyConfig": record(
            {
                "kind": string(enum=("CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig")),
                "name": string(min_length=1),
            },
            required=("name",),
        ),
        "name": string(min_length=1),
        "priority": integer(minimum=1, maximum=100),
    },
    required=("envoyConfig", "name"),
)
_HTTP = array(
    record({
        "path": string(),
        "method": string(),
        "host": string(),
        "headers": array(string()),
        "headerMatches": array(
            record(
                {
                    "name": string(min_length=1),
                    "value": string(),
                    "mismatch": string(enum=("LOG", "ADD", "DELETE", "REPLACE")),
                    "secret": _SECRET,
                },
                required=("name",),
            )
        ),
    })
)
_KAFKA = array(
    record({
        "apiKey": string(),
        "apiVersion": string(),
        "clientID": string(),
        "role": string(enum=("produce", "consume")),
        "topic": string(max_length=255),
    })
)
_AUTHENTICATION = record({"mode": string(enum=("disabled", "required", "test-always-fail"))}, required=("mode",))
_ENTITIES = ("all", "world", "cluster", "host", "init", "ingress", "unmanaged", "remote-node", "health", "none", "kube-apiserver")


def _port_protocol(options: Options) -> Check:
    protocols = ["TCP", "UDP", "SCTP", "VRRP", "IGMP"]
    if options.at_least(1, 20):
        protocols += ["GRE", "IPIP", "IPV6", "ESP", "AH"]
    return record({
        "port": string(pattern=_PORT_PATTERN),
        "endPort": integer(minimum=0, maximum=65535),
        "protocol": string(enum=(*protocols, "ANY")),
    })


def _to_ports(options: Options) -> Check:
    rules: dict[str, Check] = {"http": _HTTP, "dns": array(_NAME)}
    kinds = ["http", "dns"]
    if not options.at_least(1, 20):
        rules |= {"kafka": _KAFKA, "l7proto": string(), "l7": array(mapping(string()))}
        kinds = ["http", "kafka", "dns", "l7proto"]
    server_name = r"^([-a-zA-Z0-9_*]+[.]?)+$" if options.at_least(1, 20) else r"^(\*?\*\.)?([-a-zA-Z0-9_]+\.?)+$"
    return array(
        record({
            "ports": array(_port_protocol(options), max_items=40),
            "rules": record(rules, exactly_one=kinds),
            "serverNames": array(string(max_length=255, pattern=server_name), min_items=1),
            "terminatingTLS": _TLS,
            "originatingTLS": _TLS,
            "listener": _LISTENER,
        })
    )


def _element(options: Options, *, ingress: bool, deny: bool) -> Check:
    way = "from" if ingress else "to"
    entities = (*_ENTITIES, "cluster-mesh") if options.at_least(1, 20) else _ENTITIES
    # toRequires is gone in 1.19; what remains of it is a list that may hold nothing.
    requires = array(string(), max_items=0) if options.at_least(1, 19) else array(_SELECTOR)
    fields: dict[str, Check] = {
        f"{way}Endpoints": array(_SELECTOR),
        f"{way}Nodes": array(_SELECTOR),
        f"{way}Entities": array(string(enum=entities)),
        f"{way}CIDR": array(string(cidr=True)),
        f"{way}CIDRSet": array(_CIDR_RULE),
        f"{way}Groups": _GROUPS,
        f"{way}Requires": requires,
        "icmps": _ICMPS,
        "toPorts": array(record({"ports": array(_port_protocol(options))})) if deny else _to_ports(options),
    }
    if not ingress:
        fields["toServices"] = _SERVICES
        if not deny:
            fields["toFQDNs"] = array(_NAME)
    if not deny:
        fields["authentication"] = _AUTHENTICATION
    return record(fields)


@lru_cache(maxsize=8)
def cilium_rule(minor: str) -> Check:
    """The check of `spec` and of each of `specs`, for a minor version such as 1.20."""
    options = Options(cilium=minor)
    return record(
        {
            "endpointSelector": _SELECTOR,
            "nodeSelector": _SELECTOR,
            "ingress": array(_element(options, ingress=True, deny=False)),
            "ingressDeny": array(_element(options, ingress=True, deny=True)),
            "egress": array(_element(options, ingress=False, deny=False)),
            "egressDeny": array(_element(options, ingress=False, deny=True)),
            "enableDefaultDeny": record({"ingress": boolean, "egress": boolean}),
            "description": string(),
            "labels": array(record({"key": string(), "source": string(), "value": string()}, required=("key",))),
            "log": record({"value": string(max_length=32, pattern=r"^\PC*$")}),
        },
        exactly_one=("endpointSelector", "nodeSelector"),
        any_of=("ingress", "ingressDeny", "egress", "egressDeny"),
    )
