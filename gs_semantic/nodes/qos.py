"""The one place of quality-of-service choices.

Outputs offer reliable, which every subscriber matches; inputs request best effort by default, which every publisher
matches. Latched topics keep their last message for late subscribers.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

RELIABILITIES = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}


def _profile(
    depth: int,
    reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability
    )


def sensor_input(reliability: str = "best_effort") -> QoSProfile:
    """Images, camera_info and masks as the mapper requests them."""
    return _profile(10, RELIABILITIES[reliability])


SENSOR_OUTPUT = _profile(10)  # as the replay offers them
POSE = _profile(100)
IMAGE_OUTPUT = _profile(2)
CLOUD_OUTPUT = _profile(2)
STATUS = _profile(10)
DIAGNOSTICS = _profile(10)
SPLATS = _profile(5)
EVENTS = _profile(200)
CLICKS = _profile(10)
LATCHED = _profile(1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LATCHED_INPUT = _profile(1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STATIC_TF = _profile(100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def describe(profile: QoSProfile) -> str:
    """The words docs/interfaces.md uses: ``reliable, volatile, keep last 2``."""
    words = [profile.reliability.name.lower().replace("_", " "), profile.durability.name.lower().replace("_", " ")]
    return f"{words[0]}, {words[1]}, keep last {profile.depth}"
