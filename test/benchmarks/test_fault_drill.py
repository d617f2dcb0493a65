"""The fault drill: what counts as named, and a drill of three faults in a real graph."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gs_semantic.benchmarks.faults import CASES, FaultDrill, Outcome, cases_of, names, results
from gs_semantic.errors import InvalidRequestError
from gs_semantic.nodes import faults
from gs_semantic.share import share_path

BY_NAME = {case.fault: case for case in CASES}


def test_there_are_ten_faults_and_the_catalogue_knows_their_names() -> None:
    assert len(BY_NAME) == 10
    for case in CASES:
        assert {*case.names, *case.follows} <= faults.CATALOGUE.keys()


def late(milliseconds: float, source: str = "camera_optical_frame") -> str:
    return faults.TF_LATE.text(source=source, target="map", milliseconds=milliseconds)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (late(400.0), True),
        (f"pose (tf): {late(400.0)}", True),
        (late(9000.0), False),  # not by so much
        (late(400.0, "elsewhere"), False),  # not that frame
        (faults.TF_MISSING.text(source="camera_optical_frame", target="map", reason="it is"), False),
        ("transform from 'camera_optical_frame' to 'map': the stamp is 400.0 ms newer", False),  # no name
    ],
)
def test_a_name_alone_is_not_enough(text: str, right: bool) -> None:
    assert names(BY_NAME["tf_late"], text) is right


def test_results_count_what_was_named_rightly_and_in_time() -> None:
    outcomes = [
        Outcome("stamps", 0.5, 0.2, "text", ()),
        Outcome("encoding", 3.5, 0.2, "text", ()),  # too late
        Outcome("frame_id", 0.5, 0.3, "text", ("tf_missing",)),  # and something that was not there
    ]
    found = results(outcomes)
    assert (found["faults"], found["named_correctly"], found["recovered"]) == (3, 1, 3)
    assert (found["slowest_s"], found["slowest_recovery_s"]) == (3.5, 0.3)
    missed = results([Outcome("stamps", math.nan, math.nan, "", ())])
    assert (missed["named_correctly"], missed["recovered"]) == (0, 0)
    assert math.isnan(missed["slowest_s"])


def test_unknown_fault() -> None:
    with pytest.raises(InvalidRequestError, match="--only gravity: no such fault; there are depth_qos"):
        cases_of(["gravity"])


def test_a_running_graph_names_faults_and_gets_over_them(tmp_path: Path, ros_domain_id: int) -> None:
    with FaultDrill(share_path("sample", "house"), tmp_path, domain_id=ros_domain_id) as drill:
        outcomes = drill.run(cases_of(["depth_qos", "frame_id", "mask_size"]))
        mapper = drill.processes.processes["mapper"]
        assert mapper.poll() is None
    assert [outcome.fault for outcome in outcomes] == ["depth_qos", "frame_id", "mask_size"]
    for outcome in outcomes:  # how soon is the benchmark's business
        assert outcome.text, outcome
        assert not outcome.others, outcome
        assert outcome.recovered, outcome
