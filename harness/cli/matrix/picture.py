"""The matrix as a picture (SVG): a line for each target and port, a column for each group of sources, a sign and a colour in each cell."""

from __future__ import annotations

from html import escape

from harness.cli.matrix.rows import Group, Matrix, Row
from harness.policy.reachrows import Reach

_CELL, _ROW, _TEXT, _PAD = 44, 26, 7.4, 16
"""Pixels: the width of a cell, its height, the width of a letter, the margin."""
_SIGNS = {
    Reach.ALLOW: ("✓", "#c8e6c9", "#1b5e20", "allowed"),
    Reach.CONDITIONAL: ("L7", "#ffe0b2", "#7a4300", "each request judged"),
    Reach.UNKNOWN: ("?", "#e1bee7", "#4a148c", "not known"),
    Reach.ERROR: ("!", "#e1bee7", "#4a148c", "policy error"),
    Reach.DENY: ("✗", "#ffcdd2", "#8e0000", "denied"),
}


def svg(matrix: Matrix) -> str:
    """A document of its own, for browsers and pages."""
    groups = matrix.groups()
    labels = [f"{matrix.describe(row.targets, 2)}:{row.called}" for row in matrix.rows]
    heads = [matrix.describe(group.peers, 2) for group in groups]
    left = _PAD + _width(labels) + 10
    longest = _width(heads)
    top = _PAD + 24 + int(longest * 0.71) + 12
    width = left + _CELL * len(groups) + int(longest * 0.71) + _PAD
    width = max(width, _PAD * 2 + 190 * len(_SIGNS))
    height = top + _ROW * len(labels) + 44 + _PAD
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="ui-monospace, monospace" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_PAD}" y="{_PAD + 12}" font-weight="bold" font-size="14">Who reaches what: sources above, targets at the left</text>',
    ]
    for column, head in enumerate(heads):
        x, y = left + _CELL * column + _CELL // 2, top - 8
        parts.append(f'<text x="{x}" y="{y}" transform="rotate(-45 {x} {y})">{escape(head)}</text>')
    for line, (row, label) in enumerate(zip(matrix.rows, labels, strict=True)):
        y = top + _ROW * line
        parts.append(f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(label)}</text>')
        for column, (group, head) in enumerate(zip(groups, heads, strict=True)):
            parts.append(_cell(row, group, line, left + _CELL * column, y, f"{head} → {label}"))
    parts += _legend(top + _ROW * len(labels) + 20)
    return "\n".join([*parts, "</svg>"])


def _cell(row: Row, group: Group, line: int, x: int, y: int, title: str) -> str:
    if group.peers == row.targets and len(group.peers) == 1:
        return f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_ROW - 2}" fill="#eeeeee"/>'
    sign, fill, ink, words = _SIGNS[Reach(group.codes[line])]
    return (
        f"<g><title>{escape(f'{title}: {words}')}</title>"
        f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_ROW - 2}" fill="{fill}"/>'
        f'<text x="{x + _CELL // 2 - 1}" y="{y + 17}" text-anchor="middle" fill="{ink}">{sign}</text></g>'
    )


def _legend(y: int) -> list[str]:
    parts = []
    for place, (sign, fill, ink, words) in enumerate(_SIGNS.values()):
        x = _PAD + 190 * place
        parts.append(
            f'<rect x="{x}" y="{y}" width="24" height="20" fill="{fill}"/>'
            f'<text x="{x + 12}" y="{y + 14}" text-anchor="middle" fill="{ink}">{sign}</text>'
            f'<text x="{x + 30}" y="{y + 14}">{words}</text>'
        )
    return parts


def _width(texts: list[str]) -> int:
    return int(max(map(len, texts), default=0) * _TEXT)
