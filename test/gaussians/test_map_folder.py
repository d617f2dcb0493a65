"""Map folders: bit-equal, whole or not at all, and damage named."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from gs_semantic.errors import MapFormatError, StorageError
from gs_semantic.gaussians import Camera, GaussianMap, map_folder
from gs_semantic.gaussians.gaussian_map import CORE, Anchor
from gs_semantic.gaussians.map_folder import load_map, save_map
from gs_semantic.gaussians.ply import load_ply
from gs_semantic.labels import LabelSet
from gs_semantic.objects.registry import Box, ObjectRegistry, ObjectState, Provenance

OLD_MAPS = Path(__file__).parent / "old_maps"


def sample_map(seed: int = 0, count: int = 50) -> tuple[GaussianMap, ObjectRegistry]:
    generator = torch.Generator().manual_seed(seed)
    gaussians = GaussianMap(1, frame_id="odom")
    gaussians.register("object", (), torch.int32)
    gaussians.register("identity", (16,), fill=0.5)
    gaussians.register("seen", (), torch.bool)
    gaussians.register_state("means", "exp_avg")
    gaussians.register_state("identity", "step", ())
    values = {name: torch.randn(count, *gaussians.specs[name].shape, generator=generator) for name in CORE}
    gaussians.add(**values, object=torch.arange(count, dtype=torch.int32) % 4)
    gaussians.keep(torch.arange(count) % 5 > 0)  # leaves holes in the uids
    gaussians["identity"].copy_(torch.randn(len(gaussians), 16, generator=generator))
    gaussians["seen"].copy_(torch.rand(len(gaussians), generator=generator) > 0.5)
    gaussians["identity"][0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])  # bits, not values, must survive
    gaussians.state("means", "exp_avg").normal_(generator=generator)
    gaussians.state("identity", "step").fill_(3)
    objects = ObjectRegistry(LabelSet({0: "void", 7: "mug"}))
    for _ in range(4):
        objects.open(stamp_ns=2**60 + 1)
    objects.drop(4)  # its id and slot must not come back
    first = objects.by_slot(1)
    first.state, first.name, first.locked = ObjectState.CONFIRMED, "Anna's mug", True
    first.class_scores, first.observations, first.num_gaussians = {7: 0.1 + 0.2, 3: 1e-300}, 5, 12
    first.box = Box(np.array([0.1, 0.2, 1 / 3]), np.ones(3), np.eye(3))
    first.centroid, first.covariance = np.array([1.0, 2.0, 3.0]), np.diag([0.1, 0.2, 0.3])
    second = objects.by_slot(2)
    second.provenance, second.parent, second.moved, second.edited = Provenance.OPERATOR, 1, 17, 18
    second.embedding, second.embedding_weight = np.array([0.1, -2.0, 3e-30], np.float32), 1.5
    objects.heirs, objects.embedding_model = {3: 2, 2**63: 1}, "clip"
    gaussians.anchor = Anchor("floor 2", "dock", np.diag([1.0, -1.0, -1.0, 1.0]))
    objects.open(object_id=2**64 - 2, slot=9)
    return gaussians, objects


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def assert_same(first: tuple[GaussianMap, ObjectRegistry], second: tuple[GaussianMap, ObjectRegistry]) -> None:
    (a, objects_a), (b, objects_b) = first, second
    assert (a.map_id, a.frame_id, a.revision, a.next_uid) == (b.map_id, b.frame_id, b.revision, b.next_uid)
    assert dict(a.specs) == dict(b.specs) and dict(a.state_specs) == dict(b.state_specs)
    for name in a:
        assert bits(a[name]) == bits(b[name]), name
    for key in a.state_keys:
        assert bits(a.state(*key)) == bits(b.state(*key)), key
    assert objects_a.labels == objects_b.labels
    assert repr(a.anchor) == repr(b.anchor)
    assert (objects_a.heirs, objects_a.embedding_model) == (objects_b.heirs, objects_b.embedding_model)
    assert (objects_a.next_id, objects_a.slots) == (objects_b.next_id, objects_b.slots)
    assert [repr(o).replace("RESTORED: 1", "PERCEIVED: 0") for o in objects_a] == [
        repr(o).replace("RESTORED: 1", "PERCEIVED: 0") for o in objects_b
    ]


def test_round_trip_is_bit_equal(tmp_path):
    saved = sample_map()
    save_map(tmp_path / "maps" / "home", *saved)
    loaded = load_map(tmp_path / "maps" / "home")
    assert_same(saved, loaded)
    assert loaded[1].by_slot(1).provenance is Provenance.RESTORED
    assert loaded[1].by_slot(2).provenance is Provenance.OPERATOR
    assert sorted(file.name for file in (tmp_path / "maps" / "home").iterdir()) == [
        "attributes.safetensors",
        "gaussians.ply",
        "map.json",
    ]
    # and it goes on: the next Gaussian and the next object get new keys
    assert loaded[1].open().id == 2**64 - 1


def test_the_ply_is_standard_and_has_the_core_values(tmp_path):
    gaussians, objects = sample_map()
    save_map(tmp_path / "home", gaussians, objects)
    ply = load_ply(tmp_path / "home" / "gaussians.ply")
    for name in CORE:
        assert torch.equal(ply[name], gaussians[name]), name


def test_views_are_kept_and_of_many_some(tmp_path):
    gaussians, objects = sample_map()
    pose = np.eye(4)
    cameras = []
    for number in range(900):
        pose = pose.copy()
        pose[0, 3] = number
        cameras.append(Camera(64, 48, 50.0, 51.0, 31.5, 23.5, pose))
    gaussians.views = tuple(cameras[:3])
    save_map(tmp_path / "few", gaussians, objects)
    for camera, other in zip(gaussians.views, load_map(tmp_path / "few")[0].views, strict=True):
        assert camera.K.tolist() == other.K.tolist() and (camera.width, camera.height) == (other.width, other.height)
        np.testing.assert_array_equal(camera.T_world_camera, other.T_world_camera)
    save_map(tmp_path / "many", gaussians, objects, views=cameras)
    some = [camera.T_world_camera[0, 3] for camera in load_map(tmp_path / "many")[0].views]
    assert 200 <= len(some) <= 400 and some[0] == 0 and some[-1] > 890


def test_empty_map_and_given_labels(tmp_path):
    save_map(tmp_path / "home", GaussianMap(), ObjectRegistry(), LabelSet({0: "void", 1: "cup"}))
    gaussians, objects = load_map(tmp_path / "home")
    assert len(gaussians) == 0 and len(objects) == 0 and objects.labels.name(1) == "cup"


def test_without_optimiser_state(tmp_path):
    gaussians, objects = sample_map()
    save_map(tmp_path / "home", gaussians, objects, optimiser_state=False)
    loaded, _ = load_map(tmp_path / "home")
    assert loaded.state_keys == [] and bits(loaded["identity"]) == bits(gaussians["identity"])


def test_saving_again_replaces_the_old_map_and_leaves_nothing_behind(tmp_path):
    save_map(tmp_path / "home", *sample_map(0))
    (tmp_path / ".home.saving").mkdir()  # as a killed save leaves it
    (tmp_path / ".home.saving" / "gaussians.ply").write_text("half")
    second = sample_map(1)
    save_map(tmp_path / "home", *second)
    assert_same(second, load_map(tmp_path / "home"))
    assert [file.name for file in tmp_path.iterdir()] == ["home"]


def test_file_system_without_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr(map_folder, "_exchange", lambda first, second: False)
    first, second = sample_map(0), sample_map(1)
    save_map(tmp_path / "home", *first)
    save_map(tmp_path / "home", *second)
    assert_same(second, load_map(tmp_path / "home"))
    assert [file.name for file in tmp_path.iterdir()] == ["home"]
    (tmp_path / "home").rename(tmp_path / ".home.old")  # killed between the two renames
    assert_same(second, load_map(tmp_path / "home"))


@contextmanager
def largest_file(size: int):
    """The system refuses to let any file of this process grow beyond ``size`` bytes, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1000, 8000])
def test_a_disk_that_refuses_leaves_the_old_map_whole(tmp_path, size):
    old = sample_map(0)
    save_map(tmp_path / "home", *old)
    with largest_file(size), pytest.raises(StorageError, match="home: the map was not saved"):
        save_map(tmp_path / "home", *sample_map(1, count=500))
    assert_same(old, load_map(tmp_path / "home"))
    assert [file.name for file in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("step", ["write_ply", "save_file", "_file_record", "sync_folder", "_swap_in"])
def test_failure_at_any_step_leaves_the_old_map_whole(tmp_path, monkeypatch, step):
    old = sample_map(0)
    save_map(tmp_path / "home", *old)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(map_folder, step, full)
        with pytest.raises(StorageError, match="No space left on device"):
            save_map(tmp_path / "home", *sample_map(1))
    assert_same(old, load_map(tmp_path / "home"))
    new = sample_map(2)
    save_map(tmp_path / "home", *new)  # and the next save works
    assert_same(new, load_map(tmp_path / "home"))


def test_what_is_no_map_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("sun")
    with pytest.raises(StorageError, match="photos: is a folder with other things"):
        save_map(tmp_path / "photos", *sample_map())
    with pytest.raises(StorageError, match="holiday.jpg: is a file"):
        save_map(tmp_path / "photos" / "holiday.jpg", *sample_map())
    with pytest.raises(StorageError, match="the map was not saved"):
        save_map(tmp_path / "photos" / "holiday.jpg" / "map", *sample_map())
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "sun"


def edit_json(**changes):
    def change(folder):
        index = json.loads((folder / "map.json").read_text())
        for key, value in changes.items():
            if value is None:
                del index[key]
            else:
                index[key] = value
        (folder / "map.json").write_text(json.dumps(index))

    return change


def resign(folder):
    """Make map.json agree with the files as they are now, so that deeper checks are reached."""
    records = {name: map_folder._file_record(folder / name) for name in ("gaussians.ply", "attributes.safetensors")}
    edit_json(files=records)(folder)


def cut(name):
    def change(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])

    return change


def cut_and_resigned(folder):
    cut("attributes.safetensors")(folder)
    resign(folder)


def flip(folder):
    path = folder / "attributes.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def tensor_removed(folder):
    path = folder / "attributes.safetensors"
    tensors = {key: value.clone() for key, value in map_folder.load_file(path).items() if key != "attribute/identity"}
    map_folder.save_file(tensors, path)
    resign(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: (folder / "map.json").unlink(), "map.json: no such file"),
        (lambda folder: (folder / "gaussians.ply").unlink(), "gaussians.ply: the file is missing"),
        (lambda folder: (folder / "attributes.safetensors").unlink(), "attributes.safetensors: the file is missing"),
        (lambda folder: (folder / "map.json").write_text("{"), "map.json: is not JSON"),
        (lambda folder: (folder / "map.json").write_bytes(b"\xff\xfe\x00"), "map.json: is not JSON"),
        (lambda folder: (folder / "map.json").write_text("[]"), "map.json: schema is None"),
        (cut("map.json"), "map.json: is not JSON"),
        (cut("gaussians.ply"), "gaussians.ply: damaged: size"),
        (cut("attributes.safetensors"), "attributes.safetensors: damaged: size"),
        (cut_and_resigned, "attributes.safetensors: cannot be read"),
        (flip, "attributes.safetensors: damaged: checksum"),
        (tensor_removed, "'attribute/identity' is missing"),
        (edit_json(schema=3), "schema is 3, this version reads schemas up to 2"),
        (edit_json(anchor={"frame": "dock"}), "map.json: does not describe a map: KeyError"),
        (edit_json(heirs=None), "map.json: does not describe a map: KeyError\\('heirs'\\)"),
        (edit_json(gaussians=41), r"attributes.safetensors: tensor 'attribute/means' is .*\(41, 3\)"),
        (edit_json(objects=None), "map.json: does not describe a map: KeyError\\('objects'\\)"),
        (edit_json(files=None), "map.json: field 'files' is missing"),
        (edit_json(files={}), "gaussians.ply: damaged"),
        (edit_json(attributes={}), "map.json: attributes .* are missing"),
        (edit_json(objects=[{"id": "first"}]), "map.json: does not describe a map"),
        (edit_json(next_slot="nine"), "map.json: does not describe a map"),
    ],
)
def test_damage_is_named(tmp_path, change, text):
    save_map(tmp_path / "home", *sample_map())
    change(tmp_path / "home")
    with pytest.raises(MapFormatError, match=text):
        load_map(tmp_path / "home")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(MapFormatError, match="nowhere.*is not a map folder"):
        load_map(tmp_path / "nowhere")


def test_a_map_of_schema_1_is_read_and_brought_up_to_date(tmp_path):
    """The folder was written when schema 1 was the newest."""
    old = OLD_MAPS / "schema_1"
    gaussians, objects = load_map(old)
    index = json.loads((old / "map.json").read_text())
    assert (index["schema"], gaussians.map_id, len(gaussians)) == (1, index["map_id"], 16)
    mug = objects.by_slot(1)
    assert (mug.name, mug.locked, mug.class_id) == ("Anna's mug", True, 7)
    assert (mug.parent, mug.most_gaussians, mug.embedding) == (0, mug.num_gaussians, None)
    assert gaussians.anchor is None and objects.heirs == {}
    save_map(tmp_path / "new", gaussians, objects)
    assert json.loads((tmp_path / "new" / "map.json").read_text())["schema"] == map_folder.SCHEMA
    assert_same((gaussians, objects), load_map(tmp_path / "new"))


def test_a_hundred_kills_leave_a_hundred_valid_maps(tmp_path):
    """A process that saves without end is killed at random moments; what is on the disk is a map that it had finished, or
    the one that it was about to finish."""
    program = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "kill_saving.py"), str(tmp_path / "home"), "100"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    outcome = json.loads(program.stdout)
    assert (outcome["kills"], outcome["valid"]) == (100, 100)
    assert outcome["during_a_save"] > 30, "the kills hit saves, not pauses"
    assert outcome["revisions"] > 10, "and saves went on in between"
