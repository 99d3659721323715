"""A NRRD file that a full disk cut short is an error, which ITK does not report itself."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SpatialARAnomalyLib.engine.volumes.files import write_nrrd


@pytest.mark.parametrize("kept", [0, 10, 400, -1])
def test_a_file_cut_short_is_an_error(tmp_path, monkeypatch, kept):
    write = sitk.WriteImage

    def cut(image: sitk.Image, path: str, *, useCompression: bool) -> None:  # noqa: N803
        write(image, path, useCompression=useCompression)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[:kept])

    voxels = np.random.RandomState(0).randint(0, 99, (3, 20, 20)).astype(np.uint16)
    write_nrrd(tmp_path / "good.nrrd", voxels, np.eye(4))
    monkeypatch.setattr(sitk, "WriteImage", cut)
    with pytest.raises(OSError, match="the disk may be full"):
        write_nrrd(tmp_path / "bad.nrrd", voxels, np.eye(4))
