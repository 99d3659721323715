"""Settings of the panel that are saved with the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.training.request import TrainSpec


@parameterNodeWrapper
class SpatialARAnomalyParameterNode:
    """The panel's settings; those of the user (device, folders) are in `Settings`.

    inputVolume - scan to be searched
    modelSha256 - SHA-256 of the model's weights: a scene must not hold paths
    resultVolume - NLL volume of the result under review
    overlayOpacity - opacity of the NLL volume over the scan
    falsePositiveRate - share of the body voxels of normal scans above the threshold
    leastVolumeMl - smallest volume of a finding, ml
    allowMismatch - search scans that differ from the model's normal scans
    refineOutlines - move the outlines of findings to edges of the image
    trainName - name of the model to be trained
    trainModality - modality of the scans, MR or CT; empty to take it from the scans
    trainPlane - plane of the slices
    """

    inputVolume: vtkMRMLScalarVolumeNode
    modelSha256: str = ""
    resultVolume: vtkMRMLScalarVolumeNode
    overlayOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    falsePositiveRate: Annotated[float, WithinRange(1e-6, 0.1)] = FindingsSpec.false_positive_rate
    leastVolumeMl: Annotated[float, WithinRange(0.0, 1000.0)] = FindingsSpec.min_volume_ml
    allowMismatch: bool = False
    refineOutlines: bool = FindingsSpec.refine_outlines
    trainName: str = ""
    trainModality: str = ""
    trainPlane: str = TrainSpec.plane.value
