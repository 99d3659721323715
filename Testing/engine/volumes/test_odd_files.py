"""Every odd file is read exactly, or refused with its reason (`Testing/Data/odd/cases.json`)."""

from pathlib import Path

import numpy as np
import pytest
from engine.odd_files import CASES, ODD, Case, table
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import Plane
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file
from SpatialARAnomalyLib.engine.volumes.geometry import PlaneOrientation
from SpatialARAnomalyLib.engine.volumes.volume import Volume, scan_notices
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.scans import read_volume

INPUTS = Path(__file__).parents[3] / "Resources/Docs/inputs.md"

PLACE_MM = 1e-3


class Notices(SilentReporter):
    """Keeps the notices of a reading."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def notice(self, code: str, text: str) -> None:
        self.texts[code] = text


def marked(case: Case) -> pytest.param:
    marks = [] if case.todo is None else [pytest.mark.xfail(reason=case.todo, strict=True)]
    return pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_odd_file(case, tmp_path, capfd):
    path = case.find(tmp_path)
    report = Notices()
    if case.refused is not None:
        with pytest.raises(InputError) as caught:
            read(case, path, report)
        error = caught.value
        assert error.code == case.refused
        assert hint(error)
        check_message(error.message, case, path)
        return
    volume = read(case, path, report)
    texts = report.texts | dict(scan_notices(volume))
    assert sorted(texts) == sorted(case.notices)
    for text in texts.values():
        check_message(text, case, path)
    assert volume.voxels.dtype.kind in "iuf"
    assert capfd.readouterr().err == ""  # of C libraries
    check_reading(volume, case)
    if case.same_as is not None:
        other = read_volume(Case(input=case.same_as, kind="", what="").find(tmp_path))
        assert_same(volume, other)


def read(case: Case, path: Path, report: Notices) -> Volume:
    if case.labels:
        return read_volume_file(path, labels=True)
    return read_volume(path, **case.options, report=report)


def check_message(text: str, case: Case, path: Path) -> None:
    """A sentence for a person: no folder, no rounded power of ten."""
    assert text.endswith(".")
    assert str(path.parent) not in text
    assert "e+" not in text
    for part in case.says:
        assert part in text


def check_reading(volume: Volume, case: Case) -> None:
    """Voxels are where, and what, an independent reading says."""
    if case.size is not None:
        assert volume.voxels.shape == case.size[::-1]
    if case.place is not None:
        random = np.random.RandomState(0)
        voxels = random.uniform(0, np.array(volume.voxels.shape[::-1]) - 1, (100, 3)).T
        stated, found = np.array(case.place), volume.ras_from_voxel[:3]
        apart = (stated - found)[:, :3] @ voxels + (stated - found)[:, 3:]
        assert np.linalg.norm(apart, axis=0).max() < PLACE_MM
    for voxel, value in case.values.items():
        i, j, k = map(int, voxel.split())
        assert volume.voxels[k, j, i] == pytest.approx(value, rel=1e-6)


def assert_same(volume: Volume, other: Volume) -> None:
    """The same picture at the same place, in any order of axes and to half a stored step."""
    for one, shown in zip(in_order(volume), in_order(other), strict=True):
        np.testing.assert_allclose(one, shown, rtol=0, atol=0.5 if one.ndim == 3 else PLACE_MM)


def in_order(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    orientation = PlaneOrientation.of(volume.ras_from_voxel, Plane.AXIAL)
    place = orientation.ras_from_plane(volume.ras_from_voxel, volume.voxels.shape)
    return orientation.apply(volume.voxels).astype(float), place


def test_the_table_of_inputs_is_that_of_the_cases():
    """`PYTHONPATH=Testing python -m engine.odd_files` prints the table."""
    assert table() in INPUTS.read_text(encoding="utf-8")


def test_every_stored_file_has_a_case():
    """A case of its own, or of its folder."""
    inputs = {case.input for case in CASES}
    detached = {".raw", ".nii.gz"}  # voxels of other cases' headers
    for file in ODD.rglob("*"):
        name = file.relative_to(ODD).as_posix()
        if name.startswith(("licenses/", "README", "cases")) or not file.is_file():
            continue
        if not any(name.endswith(suffix) for suffix in detached):
            assert name in inputs or name.split("/")[0] in inputs, name
