"""Environment variables that processes with our nodes are started with."""

from __future__ import annotations

import os

from gs_semantic.share import share_path

FASTDDS_PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
FASTRTPS_PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"  # what Fast DDS 2 (Humble, Jazzy) calls it


def ros_environment() -> dict[str, str]:
    """Variables to add: the DDS profile with a shared-memory segment that images fit in, unless the user has set one."""
    if os.environ.get(FASTDDS_PROFILES) or os.environ.get(FASTRTPS_PROFILES):
        return {}
    profile = str(share_path("config", "fastdds.xml"))
    return {FASTDDS_PROFILES: profile, FASTRTPS_PROFILES: profile}
