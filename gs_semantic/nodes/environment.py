"""Environment variables that processes with our nodes are started with."""

from __future__ import annotations

import os

from gs_semantic.share import share_path

FASTDDS_PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"


def ros_environment() -> dict[str, str]:
    """Variables to add: the DDS profile with a shared-memory segment that images fit in, unless the user has set one."""
    if os.environ.get(FASTDDS_PROFILES):
        return {}
    return {FASTDDS_PROFILES: str(share_path("config", "fastdds.xml"))}
