"""Where the package's data files are: configuration, launch files, the DDS profile and the sample."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gs_semantic.errors import StorageError


def share_path(*parts: str) -> Path:
    """Path of a data file, e.g. ``share_path("config", "base.yaml")``.

    Looked for beside the package (a source tree), then in ``share/gs_semantic`` of every install prefix.
    StorageError when it is in none of them.
    """
    tree = Path(__file__).resolve().parents[1]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [tree, *(Path(prefix) / "share" / "gs_semantic" for prefix in prefixes if prefix)]
    # an install prefix also lies above the modules: <prefix>/lib/python3.x/site-packages/gs_semantic/share.py
    folders += [parent / "share" / "gs_semantic" for parent in tree.parents]
    for folder in folders:
        path = folder.joinpath(*parts)
        if path.exists():
            return path
    raise StorageError(
        f"{'/'.join(parts)}: not found in {', '.join(str(folder) for folder in dict.fromkeys(folders))}; "
        "the package is not completely installed: build it with `make build` or install it again"
    )
