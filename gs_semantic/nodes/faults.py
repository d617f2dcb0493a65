"""The catalogue of faults: everything that can be wrong between a robot and the mapper, and the sentence that mends it.

The nodes, ``/diagnostics``, ``gs-semantic doctor`` and docs/troubleshooting.md all take their words from here. A text
ends with the fault's name in brackets, so that whoever reads a log, a status or a report can find the entry again::

    raise InvalidInputError(faults.ENCODING.text(topic=topic, encoding=msg.encoding, expected="rgb8, bgr8"))

Knows no ROS.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from enum import IntEnum

_NAME = re.compile(r"\[(\w+)\]\s*$")


class Severity(IntEnum):
    """Numbers of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARNING = 1  # the map goes on, with less than it could have
    ERROR = 2  # frames are lost, or nothing works at all


def _pattern(template: str) -> str:
    """Regular expression of what a template can become."""
    return "".join(re.escape(part[0]) + (".*" if part[1] else "") for part in string.Formatter().parse(template))


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    message: what is wrong, with ``{fields}`` that name topic, frame, policy, stamp or amount. mend: what to do, one or
    two sentences, may use the same fields. meaning: one or two sentences for the troubleshooting page.
    """

    name: str
    severity: Severity
    message: str
    mend: str
    meaning: str

    @property
    def fields(self) -> set[str]:
        """Names that ``text`` needs."""
        return {part[1] for words in (self.message, self.mend) for part in string.Formatter().parse(words) if part[1]}

    def parts(self, **details: object) -> tuple[str, str]:
        """Message and mend; KeyError when a field is not given."""
        return self.message.format(**details), self.mend.format(**details)

    def text(self, **details: object) -> str:
        """``message. mend [name]``; KeyError when a field is not given."""
        message, mend = self.parts(**details)
        return f"{message}. {mend} [{self.name}]"

    def split(self, text: str) -> tuple[str, str]:
        """Message and mend of a text that ``text`` made; the mend is empty for another text."""
        found = re.fullmatch(f"(.*?)\\. ({_pattern(self.mend)}) \\[{self.name}\\]", text, re.DOTALL)
        return (found[1], found[2]) if found else (text, "")

    def found(self, subject: str, **details: object) -> Finding:
        """What an examination notes; ``subject`` is the topic, frame or part that it is about."""
        return Finding(self.name, self.severity, subject, *self.parts(**details))


@dataclass(frozen=True)
class Finding:
    """One line of an examination: a fault, or with severity OK something that is as it should be."""

    name: str
    severity: Severity
    subject: str
    message: str
    mend: str = ""

    @property
    def text(self) -> str:
        """As one line of a log."""
        return f"{self.message}{'. ' if self.mend else ''}{self.mend} [{self.name}]"

    def as_dict(self) -> dict[str, str]:
        return {
            "severity": self.severity.name.lower(),
            "name": self.name,
            "subject": self.subject,
            "message": self.message,
            "mend": self.mend,
        }


def fine(subject: str, message: str) -> Finding:
    """A finding without fault."""
    return Finding("ok", Severity.OK, subject, message)


def of_text(subject: str, text: str, otherwise: Fault | None = None) -> Finding:
    """The finding that an error's text tells; ``otherwise`` is what it is when the text names no fault (none: OTHER)."""
    fault = named_in(text) or otherwise or OTHER
    return Finding(fault.name, fault.severity, subject, *fault.split(text))


CATALOGUE: dict[str, Fault] = {}
CHAPTERS: dict[str, list[Fault]] = {}  # of the troubleshooting page


def named_in(text: str) -> Fault | None:
    """The fault that a text was made from; None for a text from elsewhere."""
    found = _NAME.search(text)
    return CATALOGUE.get(found[1]) if found else None


def _fault(chapter: str, name: str, severity: Severity, message: str, mend: str, meaning: str) -> Fault:
    fault = CATALOGUE[name] = Fault(name, severity, message, mend, meaning)
    CHAPTERS.setdefault(chapter, []).append(fault)
    return fault


# --- topics -----------------------------------------------------------------------------------------------------------

_TOPICS = "Topics"

NO_PUBLISHER = _fault(
    _TOPICS,
    "no_publisher",
    Severity.ERROR,
    "{topic}: nobody publishes it ({type} is expected)",
    "Start its driver, or name the right topic with {argument}:=TOPIC; topics of that type here: {candidates}.",
    "A topic that the mapper needs has no publisher: the driver does not run, runs in another ROS domain, or uses "
    "another name.",
)
NO_MESSAGE = _fault(
    _TOPICS,
    "no_message",
    Severity.ERROR,
    "{topic}: no message has come in {seconds:.1f} s",
    "Look at its publisher ({publishers}): a bag may be paused, a camera may wait for power or for a subscriber.",
    "The topic has a publisher with a fitting quality of service, yet nothing arrives.",
)
NO_LONGER = _fault(
    _TOPICS,
    "no_longer",
    Severity.ERROR,
    "{topic}: messages have stopped, the last one came {seconds:.1f} s ago",
    "Look at its publisher; the mapper goes on by itself when messages come again.",
    "A topic that has worked went silent.",
)
WRONG_TYPE = _fault(
    _TOPICS,
    "wrong_type",
    Severity.ERROR,
    "{topic}: {node} publishes {found}, {expected} is expected",
    "Name a topic of the expected type, with {argument}:=TOPIC.",
    "Publisher and mapper use different message types on one name, so DDS does not connect them.",
)
SUBSCRIBER_TYPE = _fault(
    _TOPICS,
    "subscriber_type",
    Severity.WARNING,
    "{topic}: {node} subscribes with type {found}, the topic is {expected}",
    "Subscribe with {expected}; until then that node gets nothing.",
    "Somebody listens to an output of the mapper with another type; the mapper itself is not harmed.",
)
QOS_INCOMPATIBLE = _fault(
    _TOPICS,
    "qos_incompatible",
    Severity.ERROR,
    "{topic}: {node} offers {policy} {offered}, the mapper requests {requested}, so no message comes",
    "Change {policy} at the publisher, or set the mapper's input_qos to best_effort.",
    "A subscriber may not ask for more than a publisher offers: reliable is more than best effort, transient local more "
    "than volatile.",
)
TWO_PUBLISHERS = _fault(
    _TOPICS,
    "two_publishers",
    Severity.WARNING,
    "{topic}: published by {count} nodes at once: {nodes}",
    "Stop all but one, or remap one of them to another topic.",
    "Messages of two cameras, or of a camera and a bag, are mixed on one name.",
)
NO_SUBSCRIBER = _fault(
    _TOPICS,
    "no_subscriber",
    Severity.WARNING,
    "{topic}: no subscriber after {seconds:.0f} s; playing all the same",
    "Start the mapper, with its inputs remapped to these topics and a compatible quality of service.",
    "The replay waits for those who listen to what it plays.",
)

# --- images -----------------------------------------------------------------------------------------------------------

_IMAGES = "Images"

ENCODING = _fault(
    _IMAGES,
    "encoding",
    Severity.ERROR,
    "{topic}: encoding '{encoding}' is not supported here",
    "Send one of {expected}.",
    "The image's `encoding` is none that this topic can carry.",
)
IMAGE_EMPTY = _fault(
    _IMAGES,
    "image_empty",
    Severity.ERROR,
    "{topic}: width x height is {width}x{height}, the image is empty",
    "Look at the driver: it sends images without pixels.",
    "A message without pixels.",
)
IMAGE_HUGE = _fault(
    _IMAGES,
    "image_huge",
    Severity.ERROR,
    "{topic}: width x height is {width}x{height}, more than {limit} pixels",
    "Let the driver send smaller images, or decimate them.",
    "A frame far beyond any camera: a damaged message, or a mosaic.",
)
IMAGE_STEP = _fault(
    _IMAGES,
    "image_step",
    Severity.ERROR,
    "{topic}: step is {step} bytes, a row of {width} {encoding} pixels has {row}",
    "Let the driver set step to the bytes of one row, padding included.",
    "`step` is smaller than a row, or no multiple of a sample.",
)
IMAGE_DATA = _fault(
    _IMAGES,
    "image_data",
    Severity.ERROR,
    "{topic}: data has {found} bytes, step x height is {step} x {height} = {expected}",
    "Look at the driver or the network: the message is not whole.",
    "The pixels do not fit what the header says.",
)
IMAGE_ODD = _fault(
    _IMAGES,
    "image_odd",
    Severity.ERROR,
    "{topic}: width x height is {width}x{height}, {encoding} images have even sizes",
    "Let the driver send another size, or another encoding.",
    "Pixels of a YUV image share their colour in pairs.",
)
COMPRESSED = _fault(
    _IMAGES,
    "compressed",
    Severity.ERROR,
    "{topic}: data with format '{format}' cannot be decoded: {reason}",
    "Send JPEG, PNG or compressedDepth, or use the raw topic.",
    "A compressed image that is damaged, or in another format than it says.",
)

# --- cameras ----------------------------------------------------------------------------------------------------------

_CAMERAS = "Cameras and depth"

CAMERA_INFO_MISSING = _fault(
    _CAMERAS,
    "camera_info_missing",
    Severity.ERROR,
    "{topic}: no message has come, so the images have no intrinsics",
    "Start the driver's camera_info, or name its topic with camera_info:=TOPIC.",
    "Colour images arrive, the camera's intrinsics do not.",
)
CAMERA_INFO_STOPPED = _fault(
    _CAMERAS,
    "camera_info_stopped",
    Severity.WARNING,
    "{topic}: no message in the last {seconds:.1f} s while images come; the last intrinsics are used",
    "Look at the driver: it should send camera_info with every image.",
    "camera_info went silent. Frames are still used, with the intrinsics known last.",
)
CAMERA_INFO_INVALID = _fault(
    _CAMERAS,
    "camera_info_invalid",
    Severity.ERROR,
    "{topic}: {reason}; is the camera calibrated?",
    "Calibrate the camera, or load its calibration into the driver.",
    "Size or `k` are zero or not numbers: what drivers send that have no calibration.",
)
CAMERA_INFO_SIZE = _fault(
    _CAMERAS,
    "camera_info_size",
    Severity.ERROR,
    "{topic}: size {found} differs from that of {image_topic}, {expected}; both must show the same pixels",
    "Let the driver send the camera_info of the images it sends, after scaling and cropping.",
    "Intrinsics of another resolution than the images.",
)
CAMERA_INFO_CHANGED = _fault(
    _CAMERAS,
    "camera_info_changed",
    Severity.WARNING,
    "{topic}: the intrinsics have changed ({what}); frames from now on use the new ones",
    "Nothing needs to be done if this was meant; else look for a second publisher.",
    "The camera was set to another mode while the map grew.",
)
DISTORTION = _fault(
    _CAMERAS,
    "distortion",
    Severity.ERROR,
    "{topic}: distortion_model '{model}' with {count} coefficients is not known",
    "Send rectified images (image_proc), or a model of {expected}.",
    "The images are distorted in a way the mapper cannot undo.",
)
DEPTH_UNREGISTERED = _fault(
    _CAMERAS,
    "depth_unregistered",
    Severity.ERROR,
    "{topic}: {what}, so depth is not registered to {colour_topic}",
    "Use the driver's aligned depth (RealSense: align_depth.enable, topic aligned_depth_to_color), or give depth_info "
    "and a transform between the two cameras.",
    "Pixel for pixel, depth must show what colour shows: same size, same frame, same intrinsics.",
)

NO_DEPTH = _fault(
    _CAMERAS,
    "no_depth",
    Severity.WARNING,
    "{topic}: no image has come, so depth is found by matching keyframes (use_depth is auto)",
    "Start the depth camera or remap its topic to {topic}; without one, set use_depth to never.",
    "The mapper chose to work without a depth sensor. It takes the sensor's depth from the first image of it on.",
)

# --- masks ------------------------------------------------------------------------------------------------------------

_MASKS = "Masks and labels"

MASK_SIZE = _fault(
    _MASKS,
    "mask_size",
    Severity.WARNING,
    "{topic}: size {found} differs from that of {colour_topic}, {expected}; the frame is used without its masks",
    "Let the segmenter send masks at the size of the colour image, enlarged without interpolation.",
    "Masks of a scaled or cropped image.",
)
MASK_IDS_UNKNOWN = _fault(
    _MASKS,
    "mask_ids_unknown",
    Severity.WARNING,
    "{topic}: mask ids {ids} are not in {info_topic}; their class is unknown",
    "Let the segmenter list every id of the image in {info_topic}.",
    "Image and list of one frame do not fit together.",
)
MASK_IDS_TOO_MANY = _fault(
    _MASKS,
    "mask_ids_too_many",
    Severity.WARNING,
    "{topic}: {count} mask ids, {limit} at most can be used; the frame is used without its masks",
    "Look at the segmenter: this is noise rather than masks.",
    "More masks than 16 bits can number.",
)
MASK_IDS_NEGATIVE = _fault(
    _MASKS,
    "mask_ids_negative",
    Severity.WARNING,
    "{topic}: data holds negative mask ids; the frame is used without its masks",
    "Let ids start at 1; 0 is unlabelled.",
    "32SC1 masks with -1 for unlabelled, usually.",
)
MASK_ONLY_ONE = _fault(
    _MASKS,
    "mask_only_one",
    Severity.WARNING,
    "{topic}: one mask fills the whole image; the frame is used without its masks",
    "Look at the segmenter, unless the camera stands right before a wall.",
    "Every pixel has the same id.",
)
MASK_INFO = _fault(
    _MASKS,
    "mask_info",
    Severity.WARNING,
    "{topic}: {reason}; the frame is used without its masks",
    "Let the segmenter write ids, class_ids and scores of equal length, and scores from 0 to 1.",
    "The list that goes with a mask image contradicts itself.",
)
LABELS_UNREADABLE = _fault(
    _MASKS,
    "labels_unreadable",
    Severity.ERROR,
    "{source}: {reason}",
    "Mend or remove it; class names known so far stay.",
    "A label file or label message that is not what it should be.",
)

# --- frames and poses -------------------------------------------------------------------------------------------------

_POSES = "Frames and poses"

FRAME_ID_EMPTY = _fault(
    _POSES,
    "frame_id_empty",
    Severity.ERROR,
    "{topic}: header.frame_id is empty",
    "Let the publisher name the frame it is in (a camera's optical frame); RealSense and most drivers have a parameter.",
    "Without a frame nobody can tell where the camera is.",
)
TF_MISSING = _fault(
    _POSES,
    "tf_missing",
    Severity.ERROR,
    "no transform from '{source}' to '{target}': {reason}",
    "Start what publishes the missing part (robot_state_publisher, localisation, or "
    "`ros2 run tf2_ros static_transform_publisher`), or set global_frame to a frame that is known.",
    "The chain from the camera to the map is not closed: a frame is unknown, or there are two trees.",
)
TF_LATE = _fault(
    _POSES,
    "tf_late",
    Severity.ERROR,
    "transform from '{source}' to '{target}': the stamp is {milliseconds:.1f} ms newer than the newest one",
    "Publish it sooner or more often, let images and transforms use one clock, or raise sync_wait_s above the delay.",
    "The pose at the image's stamp is not known yet when the image's time to wait is over. The newest pose is never "
    "used instead: it would be the wrong one.",
)
TF_OLD = _fault(
    _POSES,
    "tf_old",
    Severity.ERROR,
    "transform from '{source}' to '{target}': the stamp is {milliseconds:.1f} ms older than the oldest one",
    "Let images and transforms use one clock; images that take longer than the history of transforms are lost.",
    "The image is older than anything known of its pose: different clocks, or a bag that was started again.",
)
TF_LOOP = _fault(
    _POSES,
    "tf_loop",
    Severity.ERROR,
    "{topic}: '{child}' in '{parent}' would close a loop of frames: {loop}",
    "Find the two publishers that disagree (`ros2 run tf2_tools view_frames`) and stop one.",
    "Every frame has one parent, and no frame may be its own ancestor.",
)
POSE_INVALID = _fault(
    _POSES,
    "pose_invalid",
    Severity.ERROR,
    "{what}: contains NaN or infinity",
    "Look at the localisation; the message is ignored.",
    "A pose that is not a number.",
)
POSE_NOT_UNIT = _fault(
    _POSES,
    "pose_not_unit",
    Severity.ERROR,
    "{what}: the orientation has length {length:.3g}, a unit quaternion is expected",
    "Normalise it where it is made; an orientation of zeros was never filled in.",
    "A quaternion that is no rotation.",
)
POSE_JUMP = _fault(
    _POSES,
    "pose_jump",
    Severity.WARNING,
    "{what}: the pose jumped by {metres:.2f} m in {seconds:.2f} s",
    "Look at the localisation, or call ~/reset when the robot was carried elsewhere or relocalised.",
    "The camera moved faster than anything can move.",
)
POSE_LOST = _fault(
    _POSES,
    "pose_lost",
    Severity.ERROR,
    "{topic}: poses have stopped, the last one is of {seconds:.1f} s before the newest image",
    "Start the localisation again; mapping goes on by itself when poses come.",
    "The source of poses died or was paused.",
)
POSE_MISSING = _fault(
    _POSES,
    "pose_missing",
    Severity.ERROR,
    "{topic}: no message has come, so the images have no pose",
    "Start the localisation, or set pose_source to what there is (tf, odom, pose).",
    "The mapper is set to a pose topic that is silent.",
)

# --- stamps and clocks ------------------------------------------------------------------------------------------------

_STAMPS = "Stamps and clocks"

STAMPS_APART = _fault(
    _STAMPS,
    "stamps_apart",
    Severity.ERROR,
    "{topic}: no stamp is {limit} to one of {colour_topic}; the nearest are {milliseconds:+.1f} ms apart",
    "Let the driver synchronise its streams, or set sync_slop_s above the difference.",
    "Colour and depth are put together by their stamps.",
)
UNMATCHED = _fault(
    _STAMPS,
    "unmatched",
    Severity.WARNING,
    "{topic}: no message with the stamp of {colour_topic}, {stamp:.6f} s; the frame is dropped",
    "A few are normal with best effort; many: look at the topic's rate, and at shared memory (gs-semantic doctor).",
    "One image came without its partner.",
)
STAMP_NOT_NEWER = _fault(
    _STAMPS,
    "stamp_not_newer",
    Severity.WARNING,
    "{topic}: stamp {stamp:.6f} s is not newer than the one before ({before:.6f} s)",
    "Look for a second publisher, or for a driver that sends frames twice or out of order.",
    "A repeated or disordered frame; it is left out.",
)
STAMP_ZERO = _fault(
    _STAMPS,
    "stamp_zero",
    Severity.ERROR,
    "{topic}: header.stamp is zero",
    "Let the publisher set the time at which the image was taken.",
    "Without a stamp, nothing can be matched and no pose be found.",
)
STAMP_FUTURE = _fault(
    _STAMPS,
    "stamp_future",
    Severity.WARNING,
    "{topic}: the stamp is {seconds:.1f} s ahead of this node's clock",
    "Synchronise the clocks of the machines (chrony, PTP); with a bag or a simulator set use_sim_time.",
    "Sender and mapper do not agree what time it is.",
)
CLOCK_BACK = _fault(
    _STAMPS,
    "clock_back",
    Severity.WARNING,
    "{topic}: the stamp jumped back by {seconds:.1f} s; transforms and queues are cleared",
    "Nothing needs to be done after a bag that loops or a simulator that was reset; else look for two publishers.",
    "Time has started anew. The map stays; call ~/reset for a new one.",
)
CLOCK_SILENT = _fault(
    _STAMPS,
    "clock_silent",
    Severity.ERROR,
    "use_sim_time is set, but /clock {what}",
    "Start the simulator or `ros2 bag play --clock`, or unset use_sim_time.",
    "With use_sim_time, time stands still until /clock runs.",
)
CLOCK_UNUSED = _fault(
    _STAMPS,
    "clock_unused",
    Severity.WARNING,
    "/clock is published by {nodes}, but use_sim_time is not set, and stamps are {seconds:.0f} s from the wall clock",
    "Set use_sim_time:=true.",
    "A bag or simulator runs on its own time.",
)

# --- budgets ----------------------------------------------------------------------------------------------------------

_BUDGETS = "Budgets"

BUDGET_HELD = _fault(
    _BUDGETS,
    "budget_held",
    Severity.WARNING,
    "{parameter} = {limit} is reached: {given_up}",
    "Raise it if the machine allows.",
    "A budget holds, and this is what it costs.",
)

GEOMETRY_OLD = _fault(
    "Distances and grids",
    "geometry_old",
    Severity.ERROR,
    "distances, paths and grids are not brought up to date, their last state was of map revision {revision}: {why}",
    "The log has the details; it is tried again with the next question.",
    "What planners ask about space is built in the background, and that failed. Answers come from what there was before, and say "
    "of which revision; without anything before, the question fails with this text.",
)

# --- anything else ----------------------------------------------------------------------------------------------------

_OTHER = "Anything else"

OTHER = _fault(
    _OTHER,
    "other",
    Severity.ERROR,
    "{text}",
    "The sentence itself says what it is about.",
    "An error that is not in this list, told in its own words.",
)

# --- installation -----------------------------------------------------------------------------------------------------

_INSTALLATION = "Installation"

PART_MISSING = _fault(
    _INSTALLATION,
    "part_missing",
    Severity.ERROR,
    "{part} is missing: {reason}",
    "{command}.",
    "Something the live nodes cannot do without.",
)
PART_OPTIONAL = _fault(
    _INSTALLATION,
    "part_optional",
    Severity.OK,
    "{part} is not installed ({purpose})",
    "{command}.",
    "Something that only some uses need.",
)
SHM_PROFILE = _fault(
    _INSTALLATION,
    "shm_profile",
    Severity.WARNING,
    "FASTDDS_DEFAULT_PROFILES_FILE {what}",
    "Export FASTDDS_DEFAULT_PROFILES_FILE={profile} for every process that exchanges images with the mapper.",
    "Fast DDS's default shared-memory segment of 512 KB is smaller than one image: best-effort images get lost.",
)
SHM_SMALL = _fault(
    _INSTALLATION,
    "shm_small",
    Severity.WARNING,
    "shared memory: {what}",
    "Make /dev/shm larger (Docker: --shm-size=1g), or raise segment_size in the Fast DDS profile.",
    "Images travel through shared memory between processes of one machine; what does not fit is lost.",
)
