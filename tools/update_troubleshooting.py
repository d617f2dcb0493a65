"""Rewrites docs/troubleshooting.md from the catalogue of faults, gs_semantic/nodes/faults.py."""

from __future__ import annotations

import re
from pathlib import Path

from gs_semantic.nodes.faults import CHAPTERS, Fault, Severity

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"
HEAD = """# Troubleshooting

<!-- Made by tools/update_troubleshooting.py from gs_semantic/nodes/faults.py; a test compares the two. -->

Nothing happens, or less than it should? Ask the doctor, with the topics that the mapper is started with:

    gs-semantic doctor color_image:=/camera/color/image_raw camera_info:=/camera/color/camera_info \\
        depth_image:=/camera/aligned_depth_to_color/image_raw

It looks at the installation, then for some seconds at the live topics, with the mapper running or without, and names
every fault with the sentence that mends it. Its exit code is 1 when there are errors; `--json` makes it machine-readable.
The running mapper says the same in its log, in `~/status` (`last_error`, `warnings`) and on `/diagnostics`:

    ros2 topic echo /gs_semantic/mapper/status --field warnings
    ros2 topic echo /diagnostics

Every message ends with a name in brackets, the headings of this page. An *error* costs frames; with a *warning* mapping
goes on, with less than it could have. When a fault of topics, frames or stamps ends, the mapper goes on by itself,
without a restart.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for chapter, entries in CHAPTERS.items():
        parts.append(f"\n## {chapter}\n")
        parts += [_entry(fault) for fault in entries]
    return "".join(parts)


def _entry(fault: Fault) -> str:
    word = "note" if fault.severity == Severity.OK else fault.severity.name.lower()
    return f"\n### {fault.name}\n\n*{word}*: `{_shown(fault.message)}`\n\n{fault.meaning}\n\n**Mend**: {_shown(fault.mend)}\n"


def _shown(template: str) -> str:
    """Fields as people write placeholders: ``<topic>`` would be an HTML tag, so ``TOPIC``."""
    return re.sub(r"\{(\w+)[^}]*\}", lambda found: found[1].upper(), template)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
