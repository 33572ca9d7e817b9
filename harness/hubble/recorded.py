"""Flows from a file that `hubble observe -o json` (or Hubble's exporter) wrote: one JSON object a line. Strict, since a flow that is
silently left out looks like one that never was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from harness.errors import FlowFileError, Location
from harness.hubble.convert import Event, from_json

_RESPONSES = frozenset({"flow", "lost_events", "lostEvents", "node_status", "nodeStatus"})
_OF_A_FLOW = frozenset({"verdict", "IP", "l4", "l7", "Type", "event_type", "eventType", "ethernet"})
_HINT = "one JSON object a line, as `hubble observe -o json` prints it; `jq -c .` makes lines of anything else"


def read_flows(lines: Iterable[str], file: str) -> Iterator[Event]:
    """The flows and losses of a file, in its order. `file` is its name, for errors.

    Node status and flows without addresses or layer 4 are left out, as in a live stream. Raises FlowFileError, with the line, for anything that
    is no event of Hubble's: cut off, another kind of JSON, none at all.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            event = _event(line, Location(file, number))
            if event is not None:
                yield event


def _event(line: str, place: Location) -> Event | None:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise FlowFileError(f"not JSON: {error}", location=place, hint=_HINT) from error
    if not isinstance(value, dict):
        raise FlowFileError("not a flow: it is no JSON object", location=place, hint=_HINT)
    if not value.keys() & (_RESPONSES | _OF_A_FLOW):
        keys = ", ".join(map(str, list(value)[:5])) or "nothing"
        raise FlowFileError(f"not a flow: an object with {keys}", location=place, hint=_HINT)
    try:
        return from_json(value)
    except ValueError as error:
        raise FlowFileError(str(error), location=place, hint="was it changed since Hubble wrote it?") from error
