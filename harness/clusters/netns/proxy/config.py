"""Envoy's configuration for a node: what it starts with, and a listener for each proxy port. Pure; the values are Envoy's API as JSON.

The settings are those that Cilium gives its Envoy (pkg/envoy/xds_server.go): full RE2 matches, normalised paths, 403 with `Access denied`.
A listener keeps the client's address, and dials the target's with the client's port; `redirect` turns that into the target's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from harness.clusters.netns.redirect import ProxyPort
from harness.policy.rules import HTTPRule, Mismatch

JSON: TypeAlias = Mapping[str, Any]

DENIED_BODY = "Access denied\r\n"
DENIED = "rbac_access_denied"
"""How the details of a response begin that Envoy gave because no rule matched."""
NO_CHAIN = "filter_chain_not_found"
"""The details of a connection that no rule takes."""
_TYPE = "type.googleapis.com/envoy."
_CONNECT_TIMEOUT = "2s"
_CONNECTIONS = 50_000
_UNLIMITED = 4_294_967_295


def bootstrap(node: str, discovery: str, turn: str) -> JSON:
    """What an Envoy starts with: listeners come from the unix socket `discovery`. A request to the unix socket `turn` is logged, and so tells
    that everything before it was."""
    return {
        "node": {"id": node, "cluster": "lab"},
        "dynamic_resources": {
            "lds_config": {
                "resource_api_version": "V3",
                "initial_fetch_timeout": "0s",
                "api_config_source": {
                    "api_type": "REST",
                    "transport_api_version": "V3",
                    "cluster_names": ["discovery"],
                    # A question is answered when there is something new, so the next may follow at once.
                    "refresh_delay": "0.001s",
                    "request_timeout": "86400s",
                },
            }
        },
        "static_resources": {"clusters": [_discovery(discovery), _ORIGIN], "listeners": [_turn(turn)]},
        "layered_runtime": {"layers": [{"name": "lab", "static_layer": {"re2.max_program_size.error_level": _UNLIMITED}}]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPE + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _CONNECTIONS,
                    },
                }
            ]
        },
    }


def _turn(path: str) -> JSON:
    log = _typed("log", "extensions.access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": {"turn": "%REQ(TURN)%"}})
    http = _typed(
        "http",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="turn",
        access_log=[log],
        route_config={
            "name": "turn",
            "virtual_hosts": [
                {"name": "turn", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 204}}]}
            ],
        },
        http_filters=[_typed("router", "extensions.filters.http.router.v3.Router")],
    )
    return {"name": "turn", "address": {"pipe": {"path": path}}, "filter_chains": [{"filters": [http]}]}


def _discovery(path: str) -> JSON:
    endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}
    return {
        "name": "discovery",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "discovery", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


_ORIGIN: JSON = {
    "name": "origin",
    "type": "ORIGINAL_DST",
    "lb_policy": "CLUSTER_PROVIDED",
    "connect_timeout": _CONNECT_TIMEOUT,
    # What continues a connection ends with it.
    "connection_pool_per_downstream_connection": True,
    "circuit_breakers": {"thresholds": [{"max_connections": _UNLIMITED, "max_pending_requests": _UNLIMITED, "max_requests": _UNLIMITED}]},
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
            "use_downstream_protocol_config": {"http2_protocol_options": {}},
        }
    },
}


def listeners(port: ProxyPort, *, ipv6: bool) -> Iterator[JSON]:
    """The listeners of a proxy port: one for each family, since sockets of one family cannot send from an address of the other."""
    yield _listener(port, "0.0.0.0", "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%")  # noqa: S104 -- in a namespace of the lab's own
    if ipv6:
        yield _listener(port, "::", "[%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%]")


def _listener(port: ProxyPort, address: str, target: str) -> JSON:
    chains: list[JSON] = []
    matchers: list[JSON] = []
    onwards = _typed(
        "set_filter_state",
        "extensions.filters.network.set_filter_state.v3.Config",
        on_new_connection=[
            {
                "object_key": "envoy.network.transport_socket.original_dst_address",
                "format_string": {"text_format_source": {"inline_string": f"{target}:%DOWNSTREAM_REMOTE_PORT%"}},
            }
        ],
    )
    for name, predicates in _takes(port):
        matchers.append({"predicate": _all(predicates), "on_match": {"action": {"name": name, "typed_config": _string(name)}}})
        if all(chain["name"] != name for chain in chains):
            chains.append({"name": name, "filters": [onwards, _http(port) if name == "http" else _tcp(port)]})
    return {
        "@type": _TYPE + "config.listener.v3.Listener",
        "name": f"{port.id} {'ipv6' if ':' in address else 'ipv4'}",
        "transparent": True,
        "address": {"socket_address": {"address": address, "port_value": port.number}},
        "listener_filters": [
            _typed("original_src", "extensions.filters.listener.original_src.v3.OriginalSrc", mark=port.mark),
            _typed("tls_inspector", "extensions.filters.listener.tls_inspector.v3.TlsInspector"),
        ],
        # Only of connections that none of the chains takes: the others tell of themselves.
        "access_log": [{**_log(port), "filter": {"response_flag_filter": {"flags": ["NR"]}}}],
        "filter_chains": chains,
        "filter_chain_matcher": {"matcher_list": {"matchers": matchers}},
    }


# Which connections pass, and who reads them


def _takes(port: ProxyPort) -> Iterator[tuple[str, list[JSON]]]:
    """Chains and their conditions, in order: `tcp` passes a connection unread, `http` asks the rules for each request."""
    rules, tls = port.rules, _is("transport_protocol", {"exact": "tls"})
    if rules.everything:
        yield "tcp", [tls]
    for name in rules.server_names:
        yield "tcp", [tls, _is("server_name", {"safe_regex": {"google_re2": {}, "regex": server_name(name)}})]
    plain = _is("transport_protocol", {"exact": "raw_buffer"})
    if port.redirect == "http":
        yield "http", [plain]
    elif rules.everything:
        yield "tcp", [plain]


def server_name(pattern: str) -> str:
    """A name of `serverNames` as RE2, of names in lower case: `*` stays within a label, `**` crosses them, `*` alone is any name."""
    if pattern == "*":
        return ".+"
    parts = re.split(r"(\*+)", pattern.lower().rstrip("."))
    return "".join({"*": "[-a-z0-9_]*"}.get(part, "[-a-z0-9_.]+") if part.startswith("*") else re.escape(part) for part in parts)


def _is(what: str, value: JSON) -> JSON:
    kind = {"transport_protocol": "TransportProtocolInput", "server_name": "ServerNameInput"}[what]
    name = f"type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.{kind}"
    return {"single_predicate": {"input": {"name": what, "typed_config": {"@type": name}}, "value_match": value}}


def _all(predicates: list[JSON]) -> JSON:
    return predicates[0] if len(predicates) == 1 else {"and_matcher": {"predicate": predicates}}


def _string(value: str) -> JSON:
    return {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": value}


def _tcp(port: ProxyPort) -> JSON:
    return _typed("tcp", "extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="tcp", cluster="origin", access_log=[_log(port)])


def _http(port: ProxyPort) -> JSON:
    everything = port.rules.everything or HTTPRule() in port.rules.http
    rbac = [] if everything else [_rbac(port.rules.http)]
    router = _typed("router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    forbidden = {"comparison": {"op": "EQ", "value": {"default_value": 403, "runtime_key": "unset"}}}
    return _typed(
        "http",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        codec_type="AUTO",
        use_remote_address=True,
        skip_xff_append=True,
        generate_request_id=False,
        server_header_transformation="PASS_THROUGH",
        stream_idle_timeout="0s",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        access_log=[_log(port)],
        local_reply_config={
            "mappers": [{"filter": {"status_code_filter": forbidden}, "body": {"inline_string": DENIED_BODY}}],
            "body_format": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}, "content_type": "text/plain"},
        },
        route_config={
            "name": "all",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
                }
            ],
        },
        http_filters=[*rbac, router],
    )


# Which requests pass


def _rbac(rules: tuple[HTTPRule, ...]) -> JSON:
    policies = {str(number): {"permissions": [_permission(rule)], "principals": [{"any": True}]} for number, rule in enumerate(rules)}
    return _typed("rbac", "extensions.filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": policies})


def _permission(rule: HTTPRule) -> JSON:
    headers: list[JSON] = [
        {"name": name, "string_match": {"safe_regex": {"regex": pattern}}}
        for name, pattern in ((":path", rule.path), (":method", rule.method), (":authority", rule.host))
        if pattern
    ]
    for text in rule.headers:
        name, space, value = text.partition(" ")
        headers.append(_equals(name.rstrip(":"), value) if space else {"name": name, "present_match": True})
    for match in rule.header_matches:
        if match.mismatch is not Mismatch.FAIL:
            continue  # it rewrites or logs, and never fails
        if match.secret and not match.value:
            return {"not_rule": {"any": True}}  # a value that cannot be read matches nothing
        headers.append(_equals(match.name, match.value) if match.value else {"name": match.name, "present_match": True})
    return {"and_rules": {"rules": [{"header": header} for header in headers]}} if headers else {"any": True}


def _equals(name: str, value: str) -> JSON:
    return {"name": name, "string_match": {"exact": value}}


# What is told of them

FIELDS = {
    "start": "%START_TIME(%s.%9f)%",
    "ms": "%DURATION%",
    "from": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "to": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "protocol": "%PROTOCOL%",
    "method": "%REQ(:METHOD)%",
    "scheme": "%REQ(:SCHEME)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%",
    "code": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "sni": "%REQUESTED_SERVER_NAME%",
}
"""What a line of Envoy's log has, besides `port`."""


def _log(port: ProxyPort) -> JSON:
    return _typed(
        "log", "extensions.access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": {"port": str(port.id), **FIELDS}}
    )


def _typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": _TYPE + kind, **fields}}
