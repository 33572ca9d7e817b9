"""The matrix as a table for terminals, and as JSON for programs."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.matrix.rows import Matrix, Row
from harness.policy.reachrows import Reach

_MOST = 6
"""Words in a cell of the short table."""
_COLUMNS = (
    (Reach.ALLOW, "ALLOWED FROM", "green"),
    (Reach.CONDITIONAL, "EACH REQUEST JUDGED FROM", "yellow"),
    (Reach.UNKNOWN, "NOT KNOWN FROM", "magenta"),
    (Reach.ERROR, "POLICY ERROR FOR", "magenta"),
    (Reach.DENY, "DENIED FROM", "red"),
)
_KEYS = {Reach.ALLOW: "allow", Reach.CONDITIONAL: "l7", Reach.UNKNOWN: "unknown", Reach.ERROR: "error", Reach.DENY: "deny"}


def table(matrix: Matrix, *, wide: bool) -> str:
    """A line for each row; on a terminal in colour and within its width. `wide` names every peer and keeps to no width."""
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, width=None if terminal and not wide else 1_000_000)
    columns = [each for each in _COLUMNS if each[0] in (Reach.ALLOW, Reach.DENY) or any(matrix.among(row, each[0]) for row in matrix.rows)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("TO", "PORT", *(title for _, title, _ in columns)):
        made.add_column(title, overflow="fold")
    most = None if wide else _MOST
    last = ""
    for row in matrix.rows:
        to = matrix.describe(row.targets, most)
        made.add_row(
            Text("" if to == last else to), row.called, *(Text(_cell(matrix, row, kind, most), style) for kind, _, style in columns)
        )
        last = to
    with console.capture() as captured:
        console.print(made)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _cell(matrix: Matrix, row: Row, kind: Reach, most: int | None) -> str:
    peers = matrix.among(row, kind)
    rest = {code for code in Reach if code is not kind and matrix.among(row, code)}
    if peers and not rest:
        return "everyone"
    if kind is Reach.DENY and most is not None and len(peers) > 1 and rest:
        return "all others"
    return matrix.describe(peers, most) or "-"


def as_json(matrix: Matrix) -> str:
    """One object: `rows`, each with its targets, port, protocol, and the sources by what becomes of their traffic."""
    rows = [
        {
            "targets": list(map(matrix.name, row.targets)),
            "port": row.port,
            "protocol": row.protocol,
            "from": {key: list(map(matrix.name, matrix.among(row, kind))) for kind, key in _KEYS.items()},
        }
        for row in matrix.rows
    ]
    return json.dumps({"sources": list(map(matrix.name, matrix.sources)), "world": matrix.world.address, "rows": rows}, indent=2)
