"""Rows of measured numbers, formatted as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Value = float | int | str | None


class Row(NamedTuple):
    """One number. `name` is its key in the JSON of its part."""

    name: str
    value: Value  # None: not measurable here
    unit: str = ""
    note: str = ""


def render(title: str, rows: Sequence[Row]) -> str:
    """Returns the rows as aligned lines under a title."""
    shown = [(row.name, _number(row.value), row.unit, row.note) for row in rows]
    widths = [max((len(cells[i]) for cells in shown), default=0) for i in range(3)]
    lines = [
        f"  {name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {note}".rstrip()
        for name, value, unit, note in shown
    ]
    return "\n".join([title, *lines])


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns name -> value, unit and note."""
    return {row.name: {"value": row.value, "unit": row.unit, "note": row.note} for row in rows}


def _number(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
