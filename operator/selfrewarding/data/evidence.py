"""`evidence.json`: by metric, the rows that show a number best, so that people can look at what it is made of.

Pure. Neighbours: stages that measure write it; alarms name it; the report shows the rows.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from typing import Any

ROWS = 5
"""Rows named for each metric."""

Evidence = Mapping[str, list[dict[str, Any]]]
"""Metric → [{"key": row key, "value": number}]."""


def highest(values: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """The rows with the highest values, highest first; among equal values by key, so that the file is reproducible."""
    return _rows(heapq.nsmallest(ROWS, values, key=lambda item: (-item[1], item[0])))


def lowest(values: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """The rows with the lowest values, lowest first; among equal values by key."""
    return _rows(heapq.nsmallest(ROWS, values, key=lambda item: (item[1], item[0])))


def evidence_bytes(evidence: Evidence) -> bytes:
    """The content of `evidence.json`; metrics without rows are left out."""
    told = {metric: rows for metric, rows in sorted(evidence.items()) if rows}
    return (json.dumps(told, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def _rows(items: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"key": key, "value": float(f"{value:.6g}")} for key, value in items]
