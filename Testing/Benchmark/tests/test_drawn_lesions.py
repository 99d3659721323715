"""Lesions drawn into normal scans: what is drawn, and the whole command on a few small heads."""

import json

import numpy as np
import pytest
from Benchmark.real import comparison, drawn
from Benchmark.real.command import drawn as app
from Benchmark.real.lesions import (
    BALL_CONTRAST,
    CONTRASTS,
    RADII_MM,
    WHITE_PERCENTILE,
    draw_ball,
    draw_lesion,
)
from Benchmark.real.scans import thinned
from scipy import ndimage
from SpatialARAnomalyLib.engine.specs import Plane
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from typer.testing import CliRunner

pytestmark = pytest.mark.slow

OPTIONS = ("--size-px", 64, "--epochs", 1, "--batch-size", 8, "--device", "cpu", "--resamples", 20)


@pytest.fixture(scope="module")
def head():
    made = normal_head(1, shape_kji=(36, 100, 100), spacing_mm=(2.3, 2.3, 4.0))
    return Volume(made.voxels, made.ras_from_voxel), ndimage.binary_dilation(made.brain)


@pytest.mark.parametrize("kind", CONTRASTS)
def test_a_lesion_changes_its_place_and_nothing_else(head, kind):
    volume, body = head
    white = np.percentile(volume.voxels[body], WHITE_PERCENTILE)
    for seed in range(3):
        ill, truth = draw_lesion(volume, body, kind, np.random.default_rng(seed))
        again, _ = draw_lesion(volume, body, kind, np.random.default_rng(seed))
        np.testing.assert_array_equal(ill.voxels, again.voxels)
        radius_mm = np.cbrt(truth.sum() * volume.voxel_ml * 1000 * 3 / 4 / np.pi)
        assert 0.9 * RADII_MM[0] < radius_mm < 1.1 * RADII_MM[1]
        assert not (truth & ~body).any()
        changed = ill.voxels != volume.voxels
        assert not (changed & ~ndimage.binary_dilation(truth, iterations=2)).any()
        core = ndimage.binary_erosion(truth)
        level = ill.voxels[core].mean() / white - 1
        if kind == "texture":
            assert ill.voxels[core].mean() == pytest.approx(volume.voxels[core].mean(), rel=0.06)
            assert np.std(ill.voxels[core] - volume.voxels[core]) > 0.05 * white
        else:
            low, high = CONTRASTS[kind]
            assert low - 0.06 < level < high + 0.06


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_ball_is_homogeneous(head, sign):
    volume, body = head
    ill, center = draw_ball(volume, body, sign, 14.0, np.random.default_rng(5))
    white = np.percentile(volume.voxels[body], WHITE_PERCENTILE)
    offset = (np.indices(body.shape).T - center).T * np.array([4.0, 2.3, 2.3])[:, None, None, None]
    distance_mm = np.sqrt((offset**2).sum(axis=0))
    inside = ill.voxels[distance_mm < 12]
    assert np.median(inside) == pytest.approx(white * (1 + sign * BALL_CONTRAST), rel=0.03)
    assert np.std(inside) < 0.08 * white  # the scan's noise
    np.testing.assert_array_equal(ill.voxels[distance_mm > 17], volume.voxels[distance_mm > 17])


def test_thinned_slices_stay_where_they_were(head):
    volume, _ = head
    few = thinned(volume, 4, Plane.AXIAL)
    assert few.voxels.shape == (9, 100, 100)
    np.testing.assert_array_equal(few.voxels[3], volume.voxels[14])
    where, before = few.ras_from_voxel @ [5, 7, 3, 1], volume.ras_from_voxel @ [5, 7, 14, 1]
    np.testing.assert_allclose(where, before)
    assert thinned(volume, 1, Plane.AXIAL) is volume


@pytest.fixture(scope="module")
def normals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normals")
    for seed in range(4):
        head = normal_head(seed, shape_kji=(18, 48, 48), spacing_mm=(4.8, 4.8, 8.0))
        write_nifti(folder / f"{seed}.nii.gz", head)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_whole_command(normals, tmp_path, monkeypatch):
    out = tmp_path / "out"
    chosen = ("--methods", "standard,bank,bright,dark", "--seeds", "1,2", "--name", "small")
    more = ("--folds", 2, "--balls", 6, "--every", 2, "--held-out-share", 0.4)
    result = run(normals, "--out", out, *OPTIONS, *chosen, *more)
    assert result.exit_code == 0, (result.stderr, result.exception)
    content = json.loads((out / "small.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in content["rows"]}
    assert ",".join(rows) == chosen[1]
    assert content["about"]["persons"] == 4
    bright, dark = rows["bright"], rows["dark"]
    assert bright["bright_auroc"] > 0.8
    assert bright["bright_auroc"] + dark["bright_auroc"] == pytest.approx(1, abs=0.02)
    assert bright["dark_auroc"] < bright["bright_auroc"] - 0.1
    assert bright["balls_dark"] == dark["balls_bright"] == 0
    for row in rows.values():
        assert 0 <= row["rate"] < 0.2
        assert row["ks_p"] is None  # too few held-out persons for a case p-value
    assert (out / "small.md").read_text(encoding="utf-8").count("\n| `") == 4
    assert str(tmp_path) not in (out / "small.json").read_text(encoding="utf-8")

    monkeypatch.setattr(drawn, "_model", None)  # all runs are stored
    again = run(normals, "--out", out, *OPTIONS, *chosen, *more, "--overwrite")
    assert again.exit_code == 0, (again.stderr, again.exception)
    assert json.loads((out / "small.json").read_text(encoding="utf-8")) == content


def test_too_few_persons_are_refused(normals, tmp_path):
    result = run(normals, "--out", tmp_path / "out", *OPTIONS, "--folds", 3)
    assert result.exit_code == 2
    assert "Every fold needs at least 2 persons" in " ".join(result.stderr.split())
    assert not (tmp_path / "out" / comparison.WORK_FOLDER).exists()
