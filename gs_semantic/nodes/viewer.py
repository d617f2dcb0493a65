"""The process of the viewer node (gs_semantic.nodes.viewer_node)."""

from __future__ import annotations

import sys

from gs_semantic.nodes.process import run_process


def main() -> int:
    return run_process("gs_semantic.nodes.viewer_node", "ViewerNode")


if __name__ == "__main__":
    sys.exit(main())
