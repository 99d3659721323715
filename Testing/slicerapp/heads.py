"""Volume nodes for the tests: small heads with any affine and transform."""

from typing import Any

import numpy as np
from scipy import ndimage
from service.small_site import SHAPE_KJI, SPACING_MM
from SpatialARAnomalyLib.service.demo.phantom import PhantomHead, add_lesion, normal_head


def head_with_lesion(seed: int = 21) -> tuple[PhantomHead, np.ndarray]:
    """Make a head with a large bright mass; return it and the voxels of the mass."""
    head = normal_head(seed, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    return add_lesion(head, seed, radius_mm=20.0, contrast=1.2)


def near(lesion: np.ndarray, kji: object) -> bool:
    """Return True if a voxel is at most two voxels (half a token) from the lesion."""
    return bool(ndimage.binary_dilation(lesion, iterations=2)[tuple(kji)])


def add_volume(voxels: np.ndarray, ras_from_voxel: np.ndarray, name: str = "Scan") -> Any:
    """Add a scalar volume node."""
    import slicer

    node = slicer.util.addVolumeFromArray(voxels, name=name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(ras_from_voxel, float)))
    return node


def add_head(name: str = "Scan", seed: int = 21) -> tuple[Any, np.ndarray]:
    """Add a head with a lesion; return the node and the lesion's voxels."""
    head, lesion = head_with_lesion(seed)
    return add_volume(head.voxels, head.ras_from_voxel, name), lesion


def detected(module: Any, timeout_s: float = 120.0) -> Any:
    """Click *Detect anomalies*, wait, and return the result; None if the status shows an error."""
    from Harness import wait_until
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    before = {result.id for result in Result.all()}
    module.ui.detectButton.click()
    wait_until(lambda: not module.widget.logic.busy, timeout_s, "the detection to end")
    new = [result for result in Result.all() if result.id not in before]
    return new[0] if new else None
