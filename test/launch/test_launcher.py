"""Nodes as processes: start, SIGINT, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import Field, fields
from pathlib import Path

import pytest
import yaml

from gs_semantic.errors import GsSemanticError
from gs_semantic.mapping.config import MapperConfig
from gs_semantic.nodes.arguments import (
    GENERALIZER,
    MAPPER,
    REPLAY,
    SEGMENTER,
    TOPIC,
    TRAINER,
    USES,
    VIEWER,
    plan_replay,
)
from gs_semantic.nodes.generalizer_node import GeneralizerParameters
from gs_semantic.nodes.launcher import PACKAGE_ROOT, NodeProcesses
from gs_semantic.nodes.mapper_parameters import NodeParameters
from gs_semantic.nodes.parameters import default_of
from gs_semantic.nodes.replay_node import ReplayParameters
from gs_semantic.nodes.segmenter_node import SegmenterParameters
from gs_semantic.nodes.trainer_node import TrainerParameters
from gs_semantic.nodes.viewer_node import ViewerParameters
from gs_semantic.share import share_path

SLEEPER = """
import signal, sys, time
def stop(*_):
    print("told to stop", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
print("up", flush=True)
time.sleep(600)
"""


PATIENCE_S = 120.0  # only a test that fails waits so long


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_for(file: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in (file.read_text() if file.exists() else ""):
        assert time.monotonic() < deadline, f"'{text}' did not appear in {file}"
        time.sleep(0.02)


def wait_for_child(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not Path(f"/proc/{pid}/task/{pid}/children").read_text():
        assert time.monotonic() < deadline, "no node was started"
        time.sleep(0.05)


def test_stop_is_a_sigint_and_a_normal_end(tmp_path):
    log = tmp_path / "log"
    with NodeProcesses() as processes, log.open("wb") as file:
        process = processes.start_command("sleeper", python(SLEEPER), file)
        wait_for(log, "up")
    assert process.returncode == 0
    assert "told to stop" in log.read_text()


def test_the_end_of_an_essential_process_ends_the_others(tmp_path):
    log = tmp_path / "log"
    with NodeProcesses() as processes, log.open("wb") as file:
        other = processes.start_command("sleeper", python(SLEEPER), file)
        wait_for(log, "up")
        processes.start_command("main", python("pass"))
        assert processes.wait() == 0
        assert other.returncode == 0


def test_an_optional_process_may_end_and_the_rest_goes_on(tmp_path):
    log = tmp_path / "log"
    with NodeProcesses() as processes, log.open("wb") as file:
        other = processes.start_command("sleeper", python(SLEEPER), file)
        optional = processes.start_command("optional", python("pass"), essential=False)
        optional.wait(timeout=PATIENCE_S)
        wait_for(log, "up")
        processes.check()
        assert other.poll() is None


def test_a_failure_is_the_exit_code_and_is_named(tmp_path):
    with NodeProcesses() as processes:
        processes.start_command("optional", python("raise SystemExit(7)"), essential=False).wait(timeout=PATIENCE_S)
        with pytest.raises(GsSemanticError, match="optional ended with exit code 7"):
            processes.check()
        assert processes.wait() == 7


def test_a_process_that_does_not_listen_is_killed(tmp_path):
    log = tmp_path / "log"
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    with NodeProcesses() as processes, log.open("wb") as file:
        process = processes.start_command("deaf", python(deaf), file)
        wait_for(log, "up")
        processes.stop(patience_s=0.2)
    assert process.returncode == -signal.SIGKILL


def test_processes_find_this_package_and_the_dds_profile(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    log = tmp_path / "log"
    code = "import os, gs_semantic; print(gs_semantic.__file__, os.environ['FASTDDS_DEFAULT_PROFILES_FILE'])"
    with NodeProcesses() as processes, log.open("wb") as file:
        processes.start_command("show", python(code), file).wait(timeout=PATIENCE_S)
    found, profile = log.read_text().split()
    assert Path(found).parents[1] == PACKAGE_ROOT
    assert Path(profile) == share_path("config", "fastdds.xml")


@pytest.mark.parametrize(
    ("use", "number", "delay_s"),
    [("replay", signal.SIGINT, 0.5), ("replay", signal.SIGTERM, 0.5), ("segment", signal.SIGINT, 1.0)],
)
def test_a_signal_to_the_command_line_ends_the_nodes(use, number, delay_s, tmp_path):
    """The whole way: `gs-semantic run ...`; a signal ends nodes and command, exit code 0."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "gs_semantic.cli", "run", use, f"sequence:={share_path('sample', 'house')}"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            wait_for_child(process.pid)
            time.sleep(delay_s)  # somewhere in the start of the nodes
            process.send_signal(number)
            assert process.wait(timeout=PATIENCE_S) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
    assert "Traceback" not in log.read_text()


def parameters_of(node: str) -> dict[str, Field]:
    """All parameters of a node by name."""
    kinds = {
        MAPPER: (NodeParameters, MapperConfig),
        REPLAY: (ReplayParameters,),
        SEGMENTER: (SegmenterParameters,),
        TRAINER: (TrainerParameters,),
        GENERALIZER: (GeneralizerParameters,),
        VIEWER: (ViewerParameters,),
    }[node]
    return {spec.name: spec for kind in kinds for spec in fields(kind)}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_arguments_set_parameters_that_the_nodes_have(use):
    for argument in use.arguments:
        for node, parameter in argument.parameters:
            if parameter == "use_sim_time":
                continue  # every ROS node has it
            spec = parameters_of(node)[parameter]
            if argument.default in ("", TOPIC):
                continue  # not given; no such node is started
            assert argument.value(argument.default) == default_of(spec), f"{argument.name}: default differs from that of {node}"
            if argument.choices and argument.kind is str:
                assert set(argument.choices) == set(spec.metadata["choices"]), argument.name


def test_configuration_files_set_parameters_that_the_nodes_have():
    for file in share_path("config").rglob("*.yaml"):
        for node, content in yaml.safe_load(file.read_text()).items():
            known = parameters_of(node.removeprefix("/**/"))
            for name, value in content["ros__parameters"].items():
                assert name in known, f"{file}: {node} has no parameter {name}"
                assert type(value) is type(known[name].default), f"{file}: type of {name}"


def test_plan_of_replay_runs_our_module():
    from gs_semantic.nodes.launcher import command_of

    (node,) = plan_replay({"sequence": str(share_path("sample", "house"))})
    assert command_of(node)[:3] == [sys.executable, "-m", "gs_semantic.nodes.replay"]


IMPATIENT = """
import sys
from gs_semantic.nodes import preflight
preflight.PATIENCE_S, preflight.LOOK_S = 0.0, 2.0
sys.exit(preflight.main())
"""


def test_the_preflight_names_what_is_missing_and_does_not_fail(ros_domain_id):
    words = ("color_image=/camera/image", "pose_source=odom", "--ros-args", "-r", "__node:=doctor")
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "/camera/image: nobody publishes it" in done.stderr
    assert "color_image:=TOPIC" in done.stderr
    assert "/gs_semantic/odom: nobody publishes it" in done.stderr
    assert "[no_publisher]" in done.stderr
