"""The guide for planners: its blocks run one after the other, as a reader would paste them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rig import UPRIGHT, Rig

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "planners.md"


def test_the_blocks_of_the_guide_run(rig: Rig, tmp_path: Path) -> None:
    rig.pose = UPRIGHT
    rig.map_scene()
    rig.settled()
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, Any] = {"MAPPER": "/rig/mapper", "FOLDER": tmp_path / "map"}
    try:
        for number, block in enumerate(blocks):
            exec(compile(block, f"{GUIDE.name}, block {number + 1}", "exec"), names)  # noqa: S102 - our own page
    finally:
        if "semantic_map" in names:
            names["semantic_map"].close()
    assert (tmp_path / "map" / "map.json").is_file()
    assert (tmp_path / "box.obj").read_text().startswith("o part_0")
    assert len(names["there"]) > 0 and names["goal"].shape == (4, 4)
