"""Flow filters as Hubble's server applies them (pkg/hubble/filters of Cilium 1.20). Pure: a filter is a predicate on a flow message.

The values of one field are alternatives, the fields of one filter must all match, the filters of a list are alternatives, and a
flow is wanted if the whitelist matches (or is empty) and the blacklist does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.hubble.predicates import (
    FilterError,
    Predicate,
    addresses,
    clusters,
    dns_queries,
    drop_reasons,
    event_types,
    fqdns,
    headers,
    interfaces,
    labels,
    methods,
    named,
    node_names,
    one_of,
    paths,
    ports,
    protocols,
    replies,
    status_codes,
    tcp_flags,
    urls,
    workloads,
)
from harness.hubble.proto import flow_pb2

__all__ = ["FilterError", "Predicate", "compile_filter", "compile_filters"]

L7_EVENT = 129


def compile_filters(whitelist: Sequence[flow_pb2.FlowFilter], blacklist: Sequence[flow_pb2.FlowFilter]) -> Predicate | None:
    """One predicate for both lists, or None where every flow is wanted. Raises FilterError."""
    wanted = [compile_filter(one) for one in whitelist]
    unwanted = [compile_filter(one) for one in blacklist]
    if not wanted and not unwanted:
        return None

    def matches(flow: flow_pb2.Flow) -> bool:
        return (not wanted or any(one(flow) for one in wanted)) and not any(one(flow) for one in unwanted)

    return matches


def compile_filter(one: flow_pb2.FlowFilter) -> Predicate:
    """The predicate of one filter; an empty filter matches everything. Raises FilterError."""
    parts: list[Predicate] = []
    for field, value in one.ListFields():
        builder = _BUILDERS.get(field.name)
        if builder is None:
            raise FilterError(f"filtering by {field.name} is not supported by this server")
        if field.name.startswith("http_"):
            _demand_l7(one, field.name)
        parts.append(builder(value))

    def matches(flow: flow_pb2.Flow) -> bool:
        return all(part(flow) for part in parts)

    return matches


def _demand_l7(one: flow_pb2.FlowFilter, name: str) -> None:
    if one.event_type and all(event.type != L7_EVENT for event in one.event_type):
        what = {"http_header": "http headers"}.get(name, name.replace("_", " "))
        raise FilterError(f"filtering by {what} requires the event type filter to only match 'l7' events")


_BUILDERS: dict[str, Callable[[Any], Predicate]] = {
    "source_ip": addresses(lambda flow: flow.IP.source),
    "destination_ip": addresses(lambda flow: flow.IP.destination),
    "source_ip_xlated": addresses(lambda flow: flow.IP.source_xlated),
    "source_port": ports("source_port"),
    "destination_port": ports("destination_port"),
    "protocol": protocols,
    "tcp_flags": tcp_flags,
    "ip_version": one_of(lambda flow: flow.IP.ipVersion),
    "source_pod": named("source pod", lambda flow: (flow.source.namespace, flow.source.pod_name)),
    "destination_pod": named("destination pod", lambda flow: (flow.destination.namespace, flow.destination.pod_name)),
    "source_service": named("source service", lambda flow: (flow.source_service.namespace, flow.source_service.name)),
    "destination_service": named("destination service", lambda flow: (flow.destination_service.namespace, flow.destination_service.name)),
    "source_label": labels("source", lambda flow: flow.source.labels),
    "destination_label": labels("destination", lambda flow: flow.destination.labels),
    "node_labels": labels("node", lambda flow: flow.node_labels),
    "source_workload": workloads(lambda flow: flow.source),
    "destination_workload": workloads(lambda flow: flow.destination),
    "source_cluster_name": clusters(lambda flow: flow.source.cluster_name),
    "destination_cluster_name": clusters(lambda flow: flow.destination.cluster_name),
    "source_identity": one_of(lambda flow: flow.source.identity if flow.HasField("source") else None),
    "destination_identity": one_of(lambda flow: flow.destination.identity if flow.HasField("destination") else None),
    "source_fqdn": fqdns(lambda flow: flow.source_names),
    "destination_fqdn": fqdns(lambda flow: flow.destination_names),
    "node_name": node_names,
    "dns_query": dns_queries,
    "http_status_code": status_codes,
    "http_method": methods,
    "http_path": paths,
    "http_url": urls,
    "http_header": headers,
    "event_type": event_types,
    "verdict": one_of(lambda flow: flow.verdict),
    "drop_reason_desc": drop_reasons,
    "reply": replies,
    "traffic_direction": one_of(lambda flow: flow.traffic_direction),
    "uuid": one_of(lambda flow: flow.uuid),
    "trace_id": one_of(lambda flow: flow.trace_context.parent.trace_id),
    "ip_trace_id": one_of(lambda flow: flow.ip_trace_id.trace_id),
    "encrypted": one_of(lambda flow: flow.IP.encrypted),
    "interface": interfaces,
}
