"""A volume of Slicer beside the DICOM files that it was loaded from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine.dicom_examples import Series, multi_frame, save
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.jobs import JOBS
from SpatialARAnomalyLib.service.worker.detection import check_source

SERIES = Series(stored=np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4))


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def volume_of(series: Series = SERIES, **changes: np.ndarray) -> Volume:
    affine = changes.get("affine", series.ras_from_voxel)
    return Volume(changes.get("voxels", series.stored).astype(np.float32), affine)


def rotated(affine: np.ndarray) -> np.ndarray:
    move = np.eye(4)
    move[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    move[:3, 3] = 30.0, -7.0, 11.0
    return move @ affine


def flipped(affine: np.ndarray) -> np.ndarray:
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = 5.0
    return affine @ flip


@pytest.mark.parametrize("move", [np.asarray, rotated, flipped])
def test_the_grid_of_the_files_is_accepted_wherever_it_was_moved(tmp_path, move: Callable):
    tilted = SERIES.with_(step=(0.0, 0.4, 2.5))
    for number, series in enumerate((SERIES, tilted)):
        folder = series.write(tmp_path / str(number))
        check_source(volume_of(affine=move(series.ras_from_voxel)), files_of(folder))


def test_a_cropped_volume_is_accepted(tmp_path):
    folder = SERIES.write(tmp_path / "series")
    check_source(volume_of(voxels=SERIES.stored[1:4]), files_of(folder))


def test_another_spacing_or_no_tilt_is_refused(tmp_path):
    tilted = SERIES.with_(step=(0.0, 0.8, 2.5))
    folder = tilted.write(tmp_path / "tilted")
    with pytest.raises(InputError, match=r"and tilted; its own are 2.50 mm apart") as caught:
        check_source(volume_of(affine=SERIES.ras_from_voxel), files_of(folder))
    assert caught.value.code == "dicom-grid"
    thick = SERIES.with_(step=(0.0, 0.0, 3.0))
    with pytest.raises(InputError, match=r"2.62 mm apart and tilted; its own are 3.00"):
        check_source(volume_of(affine=thick.ras_from_voxel), files_of(folder))


def test_a_gap_that_slicer_shows_as_thick_slices_is_refused(tmp_path):
    folder = SERIES.write(tmp_path / "series")
    files_of(folder)[2].unlink()
    shown = SERIES.with_(stored=SERIES.stored[:5], step=(0.0, 0.0, 3.125))
    with pytest.raises(InputError, match="missing") as caught:
        check_source(volume_of(shown), files_of(folder))
    assert caught.value.code == "dicom-gap"


def test_several_times_that_slicer_shows_as_slices_are_refused(tmp_path):
    folder = SERIES.write(tmp_path / "series")
    for k in range(6):
        later = SERIES.image(k, SOPInstanceUID=f"1.2.3.{k}", AcquisitionNumber=2)
        later.PixelData = (SERIES.stored[k] + 1000).tobytes()
        save(later, folder / f"later {k}.dcm")
    shown = SERIES.with_(stored=np.repeat(SERIES.stored, 2, axis=0))
    with pytest.raises(InputError) as caught:
        check_source(volume_of(shown), files_of(folder))
    assert caught.value.code == "dicom-4d"


@pytest.mark.parametrize("modality", ["CR", "MG", "US", "PT", "RTDOSE"])
def test_what_is_neither_mr_nor_ct_is_refused(tmp_path, modality):
    folder = SERIES.with_(attributes={"Modality": modality}).write(tmp_path / "series")
    with pytest.raises(InputError, match=modality) as caught:
        check_source(volume_of(), files_of(folder))
    assert caught.value.code == "modality-unsupported"


def test_one_of_several_volumes_is_compared_with_that_one_and_read(tmp_path):
    """Three echoes in two multi-frame objects; the third is the second of its file."""
    volumes = [SERIES.with_(stored=SERIES.stored + 100 * n) for n in range(3)]
    times = [{"MREchoSequence": {"EffectiveEchoTime": 5.0 * n}} for n in (1, 2, 3)]
    for name, part in (("a", slice(1)), ("b", slice(1, 3))):
        image = multi_frame(
            volumes[part], times[part], {}, SOPInstanceUID=f"1.2.3.{int(name == 'b')}"
        )
        save(image, tmp_path / name)
    files = [tmp_path / "a", tmp_path / "b"]
    inputs = {"dicom_files": [str(file) for file in files]}
    report = SilentReporter()
    named = JOBS["dicom_volumes"].run(inputs, {}, None, report)["volumes"]
    assert named == [f"echo time {time} ms, 6 slices" for time in (5, 10, 15)]
    for number, (uid, own, source) in enumerate(
        [("1.2.3.0", None, files[:1]), ("1.2.3.1", 1, files[1:]), ("1.2.3.1", 2, files[1:])]
    ):
        out = tmp_path / f"out {number}"
        read = JOBS["dicom_volume"].run(inputs, {"volume": number + 1}, str(out), report)
        assert (read["instances"], read["dicom_volume"]) == ([uid], own)
        voxels = np.load(read["files"]["voxels"])
        np.testing.assert_array_equal(voxels, volumes[number].stored)
        check_source(Volume(voxels, np.array(read["ras_from_voxel"])), source, own)
    with pytest.raises(InputError) as caught:
        check_source(Volume(voxels, np.array(read["ras_from_voxel"])), files[1:])
    assert caught.value.code == "dicom-4d"
    with pytest.raises(InputError) as caught:
        JOBS["dicom_volume"].run(inputs, {"volume": 4}, str(tmp_path / "none"), report)
    assert caught.value.code == "volume-number"
    assert not (tmp_path / "none").exists()
