"""Settings of segmenters: dataclass fields with a description and a range, which become parameters of the node."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, text: str, low: float, high: float) -> Any:
    """A documented field of a number."""
    return field(default=default, metadata={"text": text, "low": low, "high": high})
