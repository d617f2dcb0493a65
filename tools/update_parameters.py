"""Writes docs/parameters.md from the dataclasses that declare the parameters; a test holds the page true."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gs_semantic.mapping.config import MapperConfig
from gs_semantic.nodes.generalizer_node import GeneralizerParameters
from gs_semantic.nodes.mapper_parameters import LIVE_MAPPING, NodeParameters
from gs_semantic.nodes.parameters import table
from gs_semantic.nodes.replay_node import ReplayParameters
from gs_semantic.nodes.segmenter_node import SegmenterParameters, settings_of
from gs_semantic.nodes.trainer_node import TrainerParameters
from gs_semantic.nodes.viewer_node import ViewerParameters
from gs_semantic.segmenters.registry import KINDS

# segmenters of one module have the same settings
SETTINGS = {", ".join(k.name for k in KINDS.values() if k.module == kind.module): kind.name for kind in KINDS.values()}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "parameters.md"
# heading, dataclass, fields that are live beside those that say so themselves
TABLES: list[tuple[str, type, Iterable[str]]] = [
    ("## mapper: the node", NodeParameters, ()),
    ("## mapper: the mapping", MapperConfig, LIVE_MAPPING),
    ("## replay", ReplayParameters, ()),
    ("## segmenter: the node", SegmenterParameters, ()),
    *((f"## segmenter: {name}", settings_of(kind), ()) for name, kind in SETTINGS.items()),
    ("## trainer", TrainerParameters, ()),
    ("## generalizer", GeneralizerParameters, ()),
    ("## viewer", ViewerParameters, ()),
]
INTRODUCTION = """# Parameters

Written by `tools/update_parameters.py` from the dataclasses that declare the parameters; `ros2 param describe` tells the
same. A value of another type or outside its range is refused with a reason.

*Live* parameters may be changed at any time (`ros2 param set /gs_semantic/mapper depth_max_m 6.0`) and take effect with
the next frame. The others are read when the node is configured: `ros2 lifecycle set /gs_semantic/mapper deactivate`,
`cleanup`, set them, `configure`, `activate`; or start the node with them.

`budget.*` and `max_gaussians` are held at the cost of something else; what they cost stands in `~/status` (`given_up`)
and in `/diagnostics`.
"""
HEAD = "| parameter | type | default | range | unit | live | meaning |\n|---|---|---|---|---|---|---|\n"


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for heading, kind, live in TABLES:
        parts.append(f"{heading}\n\n{HEAD}" + "".join(f"{row}\n" for row in table(kind, live)))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
