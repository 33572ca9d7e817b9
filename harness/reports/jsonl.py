"""Every event of the run, one JSON object a line, written as they come: for machines, and for reading along with `tail -f`."""

from __future__ import annotations

import json
from pathlib import Path

from harness.engine.events import dump_json
from harness.reports.listener import Told


class JsonLines:
    """Writes to `path`, replacing what is there. The key `test` is the node id, where the event belongs to a test."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def hear(self, told: Told) -> None:
        for event in told.events:
            text = dump_json(event)
            self._file.write((f'{{"test":{json.dumps(told.nodeid)},{text[1:]}' if told.nodeid else text) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
