"""The search for scans: what it keeps of an archive, and what is read of a folder again."""

import gc
import weakref

import numpy as np
import pytest
from engine.dicom_examples import small_series
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.volumes import dicom_series
from SpatialARAnomalyLib.service.scan_search import search_scans
from SpatialARAnomalyLib.service.scans import ScanSource

SERIES, SLICES = 6, 3


@pytest.fixture
def flat(tmp_path):
    """A folder with the images of several series and a damaged one."""
    for number in range(SERIES):
        one = small_series(slices=SLICES, uid=f"1.2.{number}")
        one = one.with_(stored=one.stored + number, attributes={"SeriesNumber": number})
        for file in one.write(tmp_path / "one").iterdir():
            file.rename(tmp_path / f"{number} {file.name}")
    (tmp_path / "one").rmdir()
    (tmp_path / "empty.dcm").write_bytes(b"")
    return tmp_path


@pytest.fixture
def headers(monkeypatch):
    """Weak references to the headers that are read."""
    read, found = dicom_series.read_header, []

    def noted(path):
        header = read(path)
        found.append(header if header is None else weakref.ref(header))
        return header

    monkeypatch.setattr(dicom_series, "read_header", noted)
    return found


def test_a_folder_of_many_series_is_listed_once(flat, headers):
    found = search_scans([flat], (), SilentReporter())
    assert len(headers) == SERIES * SLICES + 1
    sources = [ScanSource.from_dict(one.source.to_dict()) for one in found]
    read = [source.read() for source in sources]
    assert len(headers) == SERIES * SLICES + 1 + SERIES * (SLICES + 1)
    assert [source.series for source in sources] == [f"1.2.{number}" for number in range(SERIES)]
    for source, (name, volume) in zip(sources, read, strict=True):
        expected_name, expected = ScanSource(path=flat, series=source.series).read()
        assert (name, volume.notices) == (expected_name, expected.notices)
        assert np.array_equal(volume.voxels, expected.voxels)
        assert np.array_equal(volume.ras_from_voxel, expected.ras_from_voxel)
        assert {code for code, _ in volume.notices} == {"files-unread"}


def test_a_search_keeps_no_headers(flat, headers):
    found = search_scans([flat], (), SilentReporter())
    gc.collect()
    assert len(found) == SERIES
    assert all(header is None or header() is None for header in headers)
