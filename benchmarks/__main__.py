"""`python -m benchmarks [NAME...]`: runs them, prints a table, writes build/bench.json."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import lab, policy, proxy
from benchmarks.lab import ROOT
from benchmarks.row import Row, percentile

BENCHMARKS = lab.BENCHMARKS | proxy.BENCHMARKS | policy.BENCHMARKS
OUTPUT = ROOT / "build" / "bench.json"


def main(names: list[str]) -> int:
    return report(names, BENCHMARKS, OUTPUT)


def report(names: Sequence[str], benchmarks: Mapping[str, Callable[[], Iterator[Row]]], output: Path) -> int:
    """Run those that are named, or all; print the table and write it. Returns the exit code."""
    unknown = [name for name in names if name not in benchmarks]
    if unknown:
        print(f"benchmarks: no {', '.join(unknown)}; there are {', '.join(benchmarks)}", file=sys.stderr)
        return 2
    console = Console()
    rows: list[Row] = []
    for name in names or benchmarks:
        console.print(f"[dim]{name} ...[/dim]")
        rows.extend(benchmarks[name]())
    console.print(_table(rows))
    _write(rows, output)
    console.print(f"written to {output.relative_to(ROOT)}")
    return 0


def _table(rows: list[Row]) -> Table:
    table = Table(
        title=f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {platform.release()}, Python {platform.python_version()}"
    )
    for column, right in (
        ("what", False),
        ("measured", True),
        ("target", True),
        ("", False),
        ("spread (min to max)", True),
        ("note", False),
    ):
        table.add_column(column, justify="right" if right else "left")
    for row in rows:
        spread = f"{min(row.samples):.2f} to {max(row.samples):.2f}, n={len(row.samples)}" if row.samples else ""
        sign = "<" if row.better == "below" else ">"
        met = "[green]met[/green]" if row.met else "[red]missed[/red]"
        table.add_row(row.name, f"{row.value:,.2f} {row.unit}", f"{sign} {row.target:,g} {row.unit}", met, spread, row.note)
    return table


def _write(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    values = [
        {
            "name": row.name,
            "value": row.value,
            "unit": row.unit,
            "target": row.target,
            "better": row.better,
            "met": row.met,
            "n": len(row.samples),
            "p50": percentile(row.samples, 0.5) if row.samples else None,
            "p99": percentile(row.samples, 0.99) if row.samples else None,
            "note": row.note,
        }
        for row in rows
    ]
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "kernel": platform.release(), "python": platform.python_version()}
    path.write_text(json.dumps({"machine": machine, "rows": values}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
