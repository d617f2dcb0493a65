"""What is known of an object, as text for its card (Markdown)."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import datetime, timezone

from gs_semantic.objects.packing import ObjectView

CLOCK_FROM_NS = 10**17  # 1973: stamps below are those of a recording or a simulator, which begin near 0


def card(obj: ObjectView, class_names: Mapping[int, str]) -> str:
    """Class, score, size, place and times. ``class_names`` of the alternatives."""
    rows = [("class", f"{plain(obj.class_name)} ({obj.confidence:.0%})")]
    others = [(class_id, share) for class_id, share in obj.alternatives if class_id != obj.class_id]
    if others:
        named = (f"{plain(class_names.get(i, f'class {i}'))} ({share:.0%})" for i, share in others)
        rows.append(("or", ", ".join(named)))
    if obj.box is not None:
        rows.append(("size", " x ".join(f"{side:.2f}" for side in obj.box.size) + " m"))
    if obj.centroid is not None:
        rows.append(("at", ", ".join(f"{value:.2f}" for value in obj.centroid) + " m"))
    rows += [
        ("first seen", when(obj.first_seen_ns)),
        ("last seen", when(obj.last_seen_ns)),
        ("seen", f"in {obj.observations} keyframes"),
        ("state", obj.state.name.lower() + (", locked" if obj.locked else "")),
        ("from", obj.provenance.name.lower()),
        ("Gaussians", f"{obj.num_gaussians:,}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"**{plain(obj.label)}** (object {obj.id})\n\n| | |\n|---|---|\n{table}"


def when(stamp_ns: int) -> str:
    """A stamp for people: date and time (UTC), or seconds where the clock is a recording's."""
    if stamp_ns < CLOCK_FROM_NS:
        return f"{stamp_ns / 1e9:.1f} s"
    return datetime.fromtimestamp(stamp_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def plain(text: str) -> str:
    """A text that Markdown shows as it is: names come from models and people, and must not become tags or links."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|~^:-])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
