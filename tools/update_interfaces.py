"""Rewrites the parameter tables of docs/interfaces.md from the dataclasses that declare the parameters."""

from __future__ import annotations

import re
from pathlib import Path

from gs_semantic.mapping.config import MapperConfig
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.parameters import table
from gs_semantic.nodes.replay_node import ReplayParameters

PAGE = Path(__file__).resolve().parents[1] / "docs" / "interfaces.md"
TABLES = {"Of the node:": NodeParameters, "Of the mapping:": MapperConfig, "## replay: parameters": ReplayParameters}


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for heading, kind in TABLES.items():
        rows = "".join(f"{row}\n" for row in table(kind))
        old = re.findall(rf"^{re.escape(heading)}\n\n\|[^\n]*\n\|[^\n]*\n((?:\| `[^\n]*\n)+)", text, flags=re.MULTILINE)
        if len(old) != 1:
            raise SystemExit(f"{PAGE}: expected one table below '{heading}', found {len(old)}")
        text = text.replace(old[0], rows)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
