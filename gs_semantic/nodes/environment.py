"""Environment variables that processes with our nodes are started with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gs_semantic.share import share_path

FASTDDS_PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
FASTRTPS_PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"  # what Fast DDS 2 (Humble, Jazzy) calls it


def ros_environment() -> dict[str, str]:
    """Variables to add: the DDS profile with a shared-memory segment that images fit in, unless the user has set one."""
    if os.environ.get(FASTDDS_PROFILES) or os.environ.get(FASTRTPS_PROFILES):
        return {}
    profile = str(share_path("config", "fastdds.xml"))
    # Fast DDS 3 reads the old name, too, but warns of it in every process
    return {FASTDDS_PROFILES: profile} | ({} if _has_fast_dds_3() else {FASTRTPS_PROFILES: profile})


def _has_fast_dds_3() -> bool:
    """Is the package called as since Fast DDS 3 (Kilted) installed? Before it was ``fastrtps``."""
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    return any(prefix and (Path(prefix) / "share" / "fastdds").is_dir() for prefix in prefixes)
