"""The matrix as a graph in Graphviz' language: who may talk to whom. What is denied has no edge."""

from __future__ import annotations

import json

from harness.cli.matrix.rows import Matrix
from harness.policy.reachrows import Reach

_STYLES = {
    Reach.ALLOW: 'color="#2e7d32"',
    Reach.CONDITIONAL: 'color="#b26a00", style=dashed',
    Reach.UNKNOWN: 'color="#8e24aa", style=dotted',
    Reach.ERROR: 'color="#8e24aa", style=dotted',
}


def dot(matrix: Matrix) -> str:
    """A digraph: a node for each group of peers alike, an edge with the ports that pass; dashed where a proxy judges each request."""
    groups = matrix.groups()
    lines = ["digraph reachability {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    lines += [f"  g{number} [label={_quoted(matrix.describe(group.peers, 4))}];" for number, group in enumerate(groups)]
    for number, source in enumerate(groups):
        for other, target in enumerate(groups):
            if number == other and len(source.peers) == 1:
                continue
            for kind, style in _STYLES.items():
                ports = [matrix.rows[row].called for row in sorted(target.rows) if source.codes[row] == kind]
                if ports:
                    lines.append(f"  g{number} -> g{other} [label={_quoted(', '.join(ports))}, {style}];")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    """A string of the language: JSON's quotes and backslashes are the same."""
    return json.dumps(text, ensure_ascii=False)
