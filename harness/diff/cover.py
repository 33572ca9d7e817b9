"""Few boxes that together are a set of cells, each cell in one box. Knows nothing of policies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Cells = NDArray[np.bool_]


class Box(Struct, frozen=True):
    """All cells whose three places are in these lists."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    third: tuple[int, ...]


def boxes(cells: Cells) -> Iterator[Box]:
    """Boxes that are the cells (three dimensions) exactly and do not overlap: each time the greatest that is left, which is few, not the fewest."""
    alike = [_alike(np.moveaxis(cells, axis, 0)) for axis in range(3)]
    left = cells[np.ix_(*([group[0] for group in groups] for groups in alike))]
    while left.any():
        chosen = _greatest(left)
        left[np.ix_(*chosen)] = False
        yield Box(
            *(tuple(sorted(at for group in where.tolist() for at in groups[group])) for where, groups in zip(chosen, alike, strict=True))
        )


def _alike(slices: Cells) -> list[list[int]]:
    """The places of equal slices together; slices without a cell are left out."""
    found: dict[bytes, list[int]] = {}
    for place, each in enumerate(slices):
        if each.any():
            found.setdefault(np.ascontiguousarray(each).tobytes(), []).append(place)
    return list(found.values())


def _greatest(left: Cells) -> tuple[NDArray[np.intp], ...]:
    """The places of the greatest box among those that some column of the first dimension, and some row or column below it, spans."""
    _, box = max(_spanned(left), key=lambda each: each[0])
    return tuple(np.flatnonzero(each) for each in box)


def _spanned(left: Cells) -> Iterator[tuple[int, tuple[Cells, Cells, Cells]]]:
    """Boxes with how many cells they have. Of those as great the first is as good as any."""
    columns = np.unique(left.reshape(len(left), -1).T, axis=0)
    for column in columns[columns.any(axis=1)]:
        plane = left[column].all(axis=0)
        rows, across, size = _rectangle(plane)
        yield size * int(column.sum()), (column, rows, across)
        across, rows, size = _rectangle(plane.T)
        yield size * int(column.sum()), (column, rows, across)


def _rectangle(plane: Cells) -> tuple[Cells, Cells, int]:
    """The greatest rectangle as wide as some row: its rows, its columns, how many cells it has."""
    counted = plane.astype(np.float32)
    inside = (counted @ (1 - counted).T) == 0  # [i, j]: row j has all that row i has
    sizes = inside.sum(axis=1) * plane.sum(axis=1)
    widest = int(sizes.argmax())
    return inside[widest], plane[widest], int(sizes[widest])
