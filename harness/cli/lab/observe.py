"""`harness lab observe`: the flows of a lab, or of a file, as `hubble observe` shows them and with its names for filters."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.cli.lab.options import seconds, which
from harness.errors import ClusterError, FlowsUnavailableError, UsageError

if TYPE_CHECKING:
    from harness.hubble.convert import Event
    from harness.hubble.proto import flow_pb2

_LAST = 20
"""As many as `hubble observe` shows of what has been, unless it follows."""
_SIDES: Mapping[str, tuple[str, str]] = {
    "pod": ("source_pod", "destination_pod"),
    "label": ("source_label", "destination_label"),
    "ip": ("source_ip", "destination_ip"),
    "port": ("source_port", "destination_port"),
    "service": ("source_service", "destination_service"),
    "fqdn": ("source_fqdn", "destination_fqdn"),
}
"""What can be said of either end of a flow: --from-pod, --to-pod, --pod (of one or the other), and so on; the fields of Hubble's filters."""
_VERDICTS = ("FORWARDED", "DROPPED", "AUDIT", "REDIRECTED", "ERROR", "TRACED", "TRANSLATED")
_TYPES = {"drop": 1, "trace": 4, "policy-verdict": 5, "l7": 129}
_F = TypeVar("_F", bound=Callable[..., Any])


def _ends(function: _F) -> _F:
    """The options of _SIDES."""
    for name in reversed(tuple(_SIDES)):
        for prefix, words in (("", "to or from"), ("to-", "to"), ("from-", "from")):
            function = click.option(f"--{prefix}{name}", multiple=True, metavar=name.upper(), help=f"Only flows {words} this {name}.")(
                function
            )
    return function


@click.command(short_help="Show flows, of a lab or of a file.")
@which
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help=f"The last N flows. [default: {_LAST}; of a file, all]")
@click.option("--since", metavar="TIME", help="Only flows of the last 30s, 5m, 1h.")
@click.option("--verdict", multiple=True, type=click.Choice(_VERDICTS, case_sensitive=False), help="Only flows with this verdict.")
@click.option("-t", "--type", "types", multiple=True, type=click.Choice(tuple(_TYPES)), help="Only events of this type.")
@click.option("--protocol", multiple=True, metavar="NAME", help="Only flows of this protocol: tcp, udp, icmp, http, dns, ...")
@click.option("-n", "--namespace", multiple=True, help="Only flows to or from this namespace.")
@click.option("--traffic-direction", type=click.Choice(("ingress", "egress")), help="Only what was seen at this side.")
@_ends
@click.option("--flows-from", metavar="FILE", help="Flows saved by `hubble observe -o json` (- for standard input) instead of a lab's.")
@click.option("-o", "--output", type=click.Choice(["compact", "json"]), default="compact", help="json: as `hubble observe -o json`.")
def observe(
    name: str | None, *, follow: bool, last: int | None, since: str | None, flows_from: str | None, output: str, **chosen: Any
) -> None:
    """Show the flows of a lab: who talked to whom, and what policy said.

    Filters are Hubble's: a pod is [namespace/]name-prefix, values of one option are alternatives, different options must all fit. A real
    client does as well: `hubble observe --server` with the address that `harness lab status` shows.
    """
    after = time.time_ns() - int(seconds(since, "--since") * 1e9) if since else None
    if flows_from is None:
        with suppress(KeyboardInterrupt):  # how following ends
            _live(name, _show(output), follow=follow, last=last, after=after, chosen=chosen)
    elif follow or name:
        raise UsageError("--flows-from reads a file: there is no lab to name, and nothing to follow", hint="leave out --follow and --name")
    else:
        show = _show(output)
        for event in _recorded(flows_from, last=last, after=after, chosen=chosen):
            show(event)


def _show(output: str) -> Callable[[Event], None]:
    from harness.hubble.compact import line
    from harness.hubble.convert import to_json

    if output == "json":
        return lambda event: click.echo(json.dumps(to_json(event)))
    return lambda event: click.echo(line(event, lambda text, colour: click.style(text, fg=colour or None)))


# From a lab


def _live(
    name: str | None,
    show: Callable[[Event], None],
    *,
    follow: bool,
    last: int | None,
    after: int | None,
    chosen: Mapping[str, Any],
) -> None:
    import asyncio

    from harness.lab.calls import Caller
    from harness.lab.folder import find

    # Open as long as somebody looks: the lab is in use.
    with Caller(find(name)) as caller:
        about = caller.call("about")
        wanted = filters(chosen, about["namespace"])
        number = last or (0 if follow or after else _LAST)
        # One run for all: between two of them Ctrl-C would strike anywhere in the event loop.
        asyncio.run(_stream(about["flows"], about["name"], show, follow=follow, number=number, since=after, whitelist=wanted))


async def _stream(target: str, name: str, show: Callable[[Event], None], **asked: Any) -> None:
    from harness.hubble.observer import Observer

    try:
        async with await Observer.connect(target) as observer:
            async for event in observer.flows(**asked):
                show(event)
    except FlowsUnavailableError as error:
        raise ClusterError(f"the lab `{name}` ended") from error


# From a file


def _recorded(file: str, *, last: int | None, after: int | None, chosen: Mapping[str, Any]) -> Iterator[Event]:
    from collections import deque

    from harness.cli.replay import recorded
    from harness.hubble.convert import flow_to_proto
    from harness.hubble.filters import compile_filters
    from harness.model.flow import Flow

    fits = compile_filters(filters(chosen, "default"), [])
    wanted = (
        event
        for event in recorded(file)
        if not isinstance(event, Flow) or ((after is None or event.time >= after) and (fits is None or fits(flow_to_proto(event))))
    )
    yield from deque(wanted, maxlen=last) if last else wanted


# Filters


def filters(chosen: Mapping[str, Any], namespace: str) -> Sequence[flow_pb2.FlowFilter]:
    """Hubble's filters for what was chosen by options. A pod or service that names no namespace is of `namespace`."""
    from harness.hubble.proto import flow_pb2

    every = flow_pb2.FlowFilter(
        verdict=[each.upper() for each in chosen["verdict"]],
        event_type=[flow_pb2.EventTypeFilter(type=_TYPES[each]) for each in chosen["types"]],
        protocol=chosen["protocol"],
        traffic_direction=[chosen["traffic_direction"].upper()] if chosen["traffic_direction"] else [],
    )
    either: list[tuple[tuple[str, str], Sequence[str]]] = [
        (("source_pod", "destination_pod"), [f"{each}/" for each in chosen["namespace"]])
    ]
    for name, (source, destination) in _SIDES.items():
        in_full = [each if "/" in each or name not in ("pod", "service") else f"{namespace}/{each}" for each in chosen[name]]
        either.append(((source, destination), in_full))
        for prefix, field in (("from", source), ("to", destination)):
            values = chosen[f"{prefix}_{name}"]
            getattr(every, field).extend(
                each if "/" in each or name not in ("pod", "service") else f"{namespace}/{each}" for each in values
            )
    found = [every]
    for fields, values in either:
        if values:
            # Of one end or of the other: a filter for each, since all fields of one must fit.
            found = [_with(one, field, values) for one in found for field in fields]
    return found if any(one.ListFields() for one in found) else []


def _with(one: flow_pb2.FlowFilter, field: str, values: Sequence[str]) -> flow_pb2.FlowFilter:
    made = type(one)()
    made.CopyFrom(one)
    getattr(made, field).extend(values)
    return made
