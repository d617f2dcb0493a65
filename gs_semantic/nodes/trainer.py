"""The process of the trainer node (gs_semantic.nodes.trainer_node)."""

from __future__ import annotations

import sys

from gs_semantic.nodes.process import run_process


def main() -> int:
    return run_process("gs_semantic.nodes.trainer_node", "TrainerNode")


if __name__ == "__main__":
    sys.exit(main())
