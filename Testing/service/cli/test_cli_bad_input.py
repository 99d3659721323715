"""Bad input gives exit code 2 and one error message, without a traceback or output files."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom.data
import pytest
from safetensors.numpy import load_file, save_file
from service.model_folders import change_byte, change_card
from service.small_site import SHAPE_KJI, SPACING_MM, TRAIN_OPTIONS, run, tree
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.cli.hints import HINTS
from SpatialARAnomalyLib.service.demo.phantom import normal_head

DICOM = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests"


def head() -> Volume:
    return normal_head(9, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)


def with_voxels(path: Path, voxels: np.ndarray) -> Path:
    write_nifti(path, Volume(voxels, head().ras_from_voxel))
    return path


def nifti(path: Path, array: np.ndarray, affine=None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def missing(folder):
    return folder / "no such scan.nii.gz"


def empty_folder(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def folder_without_images(folder):
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no images here")
    return folder / "notes"


def two_series(folder):
    shutil.copytree(DICOM / "98892003", folder / "study")
    return folder / "study"


def flat_image(folder):
    return nifti(folder / "flat.nii", np.random.RandomState(0).rand(20, 20).astype("f4"))


def over_time(folder):
    return nifti(folder / "time.nii", np.random.RandomState(0).rand(9, 9, 9, 3).astype("f4"))


def color(folder):
    rgb = np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nifti(folder / "color.nii", rgb)


def label_map(folder):
    return with_voxels(folder / "labels.nii.gz", (head().voxels > 200).astype(np.uint8))


def constant(folder):
    return with_voxels(folder / "constant.nii.gz", np.full(SHAPE_KJI, 7, np.int16))


def not_a_number(folder):
    return with_voxels(folder / "nan.nii.gz", np.full(SHAPE_KJI, np.nan, np.float32))


def singular(folder):
    affine = np.diag([4.8, 4.8, 20.0, 1.0])
    affine[:3, 1] = affine[:3, 0]
    image = nib.Nifti1Image(head().voxels.T, np.eye(4))
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    image.set_sform(affine, code=1)
    nib.save(image, folder / "singular.nii")
    return folder / "singular.nii"


def zero_spacing(folder):
    raw = bytearray()
    path = with_voxels(folder / "zero.nii", head().voxels)
    raw += path.read_bytes()
    raw[80:84] = np.float32(0).tobytes()  # pixdim[1]
    path.write_bytes(raw)
    return path


def truncated(folder):
    path = with_voxels(folder / "torn.nii.gz", head().voxels)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def truncated_nrrd(folder):
    from SpatialARAnomalyLib.engine.volumes.files import write_nrrd

    write_nrrd(folder / "torn.nrrd", head().voxels, head().ras_from_voxel)
    data = (folder / "torn.nrrd").read_bytes()
    (folder / "torn.nrrd").write_bytes(data[: len(data) // 2])
    return folder / "torn.nrrd"


def text_file(folder):
    (folder / "report.pdf").write_text("not a scan")
    return folder / "report.pdf"


def ct_scan(folder):
    voxels = head().voxels.astype(np.int32)
    return with_voxels(folder / "ct.nii.gz", np.where(voxels < 50, -1000, voxels // 10))


def too_coarse(folder):
    coarse = normal_head(9, shape_kji=(6, 16, 16), spacing_mm=(14.4, 14.4, 20.0))
    write_nifti(folder / "coarse.nii.gz", coarse)
    return folder / "coarse.nii.gz"


def too_small(folder):
    affine = head().ras_from_voxel @ np.diag([0.3, 0.3, 1.0, 1.0])
    write_nifti(folder / "small.nii.gz", Volume(head().voxels, affine))
    return folder / "small.nii.gz"


SCANS = [
    (missing, "does not exist"),
    (empty_folder, "is empty"),
    (folder_without_images, "no DICOM images"),
    (two_series, "column volume of a table"),  # the localizer
    (flat_image, "2-D image"),
    (over_time, "3 volumes"),
    (color, "one gray value"),
    (label_map, "label map"),
    (constant, "all its voxels are 7"),
    (not_a_number, "All voxels are NaN or infinite"),
    (singular, "must span space"),
    (zero_spacing, "spacing must be positive"),
    (truncated, "truncated"),
    (truncated_nrrd, "truncated"),
    (text_file, r"another kind \(\.pdf\)"),
    (ct_scan, "expects MR; the volume looks like CT"),
    (too_coarse, "pixel spacing of 4.8 mm; the volume has 14.4"),
    (too_small, "the volume has"),
]


def assert_refused(result, words: str) -> None:
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    assert re.search(words, " ".join(result.stderr.split())), result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [one for one in SCANS if one[0] is not two_series],  # a batch of two
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_detect_refuses(make, words, site, tmp_path):
    scan = make(tmp_path)
    before = tree(tmp_path)
    result = run(
        "detect", scan, "--model", site.model, "--out", tmp_path / "out", "--device", "cpu"
    )
    assert_refused(result, words)
    assert tree(tmp_path) == before


READ_PROBLEMS = [one for one in SCANS if one[0] not in (too_coarse, too_small)]


@pytest.mark.parametrize(
    ("make", "words"), READ_PROBLEMS, ids=lambda value: getattr(value, "__name__", "")
)
def test_train_refuses(make, words, site, tmp_path):
    scan = make(tmp_path)
    before = tree(tmp_path)
    result = run("train", *site.normals, scan, "--out", tmp_path / "model", *TRAIN_OPTIONS)
    assert_refused(result, "looks like CT; the others are MR" if make is ct_scan else words)
    assert tree(tmp_path) == before


def test_train_refuses_one_normal_listed_twice(site, tmp_path):
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(site.normals[1], copy)
    for twice in (site.normals[1], copy):
        result = run("train", *site.normals, twice, "--out", tmp_path / "model", *TRAIN_OPTIONS)
        assert_refused(result, "same content as normal_1.nii.gz")
    assert tree(tmp_path) == {"copy.nii.gz": copy.read_bytes()}


def test_train_refuses_fewer_than_two_normals(site, tmp_path):
    result = run("train", site.normals[0], "--out", tmp_path / "model", *TRAIN_OPTIONS)
    assert_refused(result, "at least 2 normal scans .* 1 can be used")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--size-px", "100"), "multiple of the encoder's patch .16 px.; found 100"),
        (("--epochs", "0"), "epochs must be at least 1"),
        (("--fov-mm", "-3"), "fov_mm must be positive"),
        (("--fov-mm", "nan"), "fov_mm must be positive"),
        (("--window-hu", "100", "-100"), "low must lie below high"),
        (("--window-hu", "-100", "100"), "window in Hounsfield units is for CT"),
        (("--held-out-share", "1.5"), "held_out_share must lie in"),
        (("--encoder", "no/such/folder"), "There is no 'folder'"),
        (("--encoder", "someone/some-encoder"), "--allow-download"),
    ],
)
def test_train_refuses_settings(option, words, site, tmp_path):
    result = run("train", *site.normals, "--out", tmp_path / "model", *TRAIN_OPTIONS, *option)
    assert_refused(result, words)
    assert tree(tmp_path) == {}


def test_outputs_that_exist_are_kept_unless_overwritten(site, tmp_path):
    scan, out = site.normals[0], tmp_path / "out"
    arguments = ("detect", scan, "--model", site.model, "--out", out, "--device", "cpu")
    assert run(*arguments).exit_code == 0
    before = tree(tmp_path)
    assert_refused(run(*arguments), "must not hold these files yet: normal_0_nll.nrrd.*--overwrite")
    assert tree(tmp_path) == before
    assert run(*arguments, "--overwrite").exit_code == 0
    assert set(tree(tmp_path)) == set(before)

    arguments = ("train", *site.normals, "--out", tmp_path / "model", *TRAIN_OPTIONS)
    shutil.copy(site.model, tmp_path / "model.safetensors")
    before = tree(tmp_path)
    assert_refused(run(*arguments), "'model.safetensors' exists already")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["a:b", "two\nlines", "con", "brain.training", "n" * 90])
def test_a_file_name_that_other_systems_refuse(name, site, tmp_path):
    result = run("train", *site.normals, "--out", tmp_path / name, *TRAIN_OPTIONS)
    assert_refused(result, re.escape(f"found {name!r}."))
    assert tree(tmp_path) == {}


def test_unwritable_output(site, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    result = run(
        "detect",
        site.normals[0],
        "--model",
        site.model,
        "--out",
        blocked / "out",
        "--device",
        "cpu",
    )
    assert_refused(result, "The output needs a folder; 'file' is a file.")
    result = run("train", *site.normals, "--out", blocked / "model", *TRAIN_OPTIONS)
    assert_refused(result, "The output needs a folder; 'file' is a file.")
    assert tree(tmp_path) == {"file": b"in the way"}


def other_threshold(model):
    change_card(model, lambda card: card.replace(b"0.", b"1.", 1))


def newer(model):
    change_card(model, lambda card: card.replace(b'schema\\":2', b'schema\\":3'))


def cut(model):
    os.truncate(model, model.stat().st_size - 1)


def other_weights(model):
    save_file(load_file(model), model)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "There is no model file"),
        (cut, "it must have .* bytes"),
        (change_byte, "SHA-256 of its tensors differs"),
        (other_threshold, "does not match its digest"),
        (newer, "this one has schema 3.*Update"),
        (other_weights, "is not a model of SpatialARAnomaly"),
    ],
)
def test_models_that_are_not_as_trained(damage, words, site, tmp_path):
    model = tmp_path / "model.safetensors"
    shutil.copy(site.model, model)
    damage(model)
    before = tree(tmp_path)
    commands = [
        ("detect", site.normals[0], "--model", model, "--out", tmp_path / "out"),
        ("models", "show", model),
        ("models", "verify", model),
    ]
    for command in commands:
        result = run(*command)
        flat = " ".join(result.stderr.split())
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
        assert re.search(words, flat), flat
    assert tree(tmp_path) == before


def test_a_model_that_is_missing(site, tmp_path):
    result = run("detect", site.normals[0], "--model", tmp_path / "no", "--out", tmp_path / "out")
    assert_refused(result, "There is no model file 'no.safetensors'")
    assert tree(tmp_path) == {}


def test_a_model_without_its_encoder_is_refused(site, tmp_path):
    """Same model, but trained on an encoder that this machine does not know."""
    from SpatialARAnomalyLib.engine.model.model_file import load_model, save_model

    model = tmp_path / "model.safetensors"
    card, network = load_model(site.model)
    encoder = replace(card.encoder, name="vits16.safetensors", weights_sha256="0" * 64)
    save_model(model, replace(card, encoder=encoder), network)
    arguments = ("detect", site.normals[0], "--model", model, "--out", tmp_path / "out")
    assert_refused(run(*arguments), "needs the encoder 'vits16.safetensors'")
    other = run(*arguments, "--encoder", "demonstration")
    assert_refused(other, "was trained on the encoder 'vits16.safetensors'")
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(site, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run(
        "detect",
        site.normals[0],
        "--model",
        site.model,
        "--out",
        tmp_path / "o",
        "--device",
        "cuda",
    )
    assert_refused(result, "Device cuda is not available")
    assert tree(tmp_path) == {}


def test_json_has_the_failure_as_an_event(site, tmp_path):
    result = run("detect", missing(tmp_path), "--model", site.model, "--out", tmp_path, "--json")
    assert result.exit_code == 2
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[0]["event"] == "hello"
    assert events[-1]["event"] == "failed"
    assert events[-1]["code"] == "input-missing"
    assert events[-1]["hint"] == HINTS["input-missing"]
    assert events[-1]["facts"] == {}
    assert [event["event"] for event in events].count("failed") == 1
