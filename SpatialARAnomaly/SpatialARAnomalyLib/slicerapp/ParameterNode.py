"""What the panel is set to, kept in the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.training.request import TrainSpec


@parameterNodeWrapper
class SpatialARAnomalyParameterNode:
    """The panel's settings; per-user ones (device, folders) are in `Settings`.

    inputVolume - the scan to search
    modelSha256 - hash of the chosen model's weights: a scene holds no paths
    resultVolume - the NLL volume of the result under review
    overlayOpacity - of the NLL volume over the scan
    falsePositiveRate - share of normal voxels above the threshold
    leastVolumeMl - smaller regions are not findings
    allowMismatch - search a scan that is unlike the model's normals all the same
    trainName - of the model to be trained
    trainModality - of the scans to learn from, MR or CT; empty for what they are
    trainPlane - in which slices are cut for training
    """

    inputVolume: vtkMRMLScalarVolumeNode
    modelSha256: str = ""
    resultVolume: vtkMRMLScalarVolumeNode
    overlayOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    falsePositiveRate: Annotated[float, WithinRange(1e-6, 0.1)] = FindingsSpec.false_positive_rate
    leastVolumeMl: Annotated[float, WithinRange(0.0, 1000.0)] = FindingsSpec.min_volume_ml
    allowMismatch: bool = False
    trainName: str = ""
    trainModality: str = ""
    trainPlane: str = TrainSpec.plane.value
