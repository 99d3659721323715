"""Detection in a DICOM series with a missing slice: refused, or scored as it is in its place."""

import numpy as np
import SimpleITK as sitk
from engine.dicom_examples import Series
from service.small_site import SHAPE_KJI, SPACING_MM, run
from SpatialARAnomalyLib.service.demo.phantom import normal_head

MISSING = 2


def test_gaps_are_refused_or_keep_their_place(tmp_path, site):
    head = normal_head(5, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    series = Series(
        stored=np.round(head.voxels * 1000 / head.voxels.max()).astype("u2"),
        step=(0.0, 0.0, SPACING_MM[2]),
        pixel_spacing=SPACING_MM[:2],
        attributes={"Modality": "MR"},
    )
    folder = series.write(tmp_path / "study")
    (folder / f"image {len(series.stored) - MISSING:03d}.dcm").unlink()

    arguments = "detect", folder, "--model", site.model, "--out", tmp_path / "out"
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "a slice is missing near z = 70.0 mm" in refused.stderr
    assert "--allow-gaps" in refused.stderr
    assert not (tmp_path / "out").exists()

    allowed = run(*arguments, "--allow-gaps")
    assert allowed.exit_code == 0, allowed.stderr
    assert "a slice is missing near z = 70.0 mm" in allowed.stderr
    nll = sitk.ReadImage(tmp_path / "out" / "study_nll.nrrd")
    assert nll.GetSize() == SHAPE_KJI[::-1]
    for index in ((0, 0, 0), (40, 7, MISSING), (9, 30, 5)):
        ras = series.ras_from_voxel @ [*index, 1]
        lps = nll.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(lps, ras[:3] * [-1, -1, 1], atol=1e-6)
    scores = sitk.GetArrayFromImage(nll)
    assert np.unique(scores[MISSING]).size == 1  # no score
    for k in set(range(len(scores))) - {MISSING}:
        assert np.unique(scores[k]).size > 100
