"""A detection's result in the scene: an NLL volume and the nodes that belong to it.

All is kept in nodes, their attributes and references, so that a saved scene
brings it back.
"""

import json
import math

import slicer
from slicer.util import getNodesByClass

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import ROLE

NLL, SEGMENTATION, FINDINGS = "NLL", "Segmentation", "Findings"

_PREFIX = "SpatialARAnomaly."
_SCAN = f"{_PREFIX}Scan"


class Result:
    """The nodes of one result, found from its NLL volume; deleted ones are None."""

    def __init__(self, volume: "slicer.vtkMRMLScalarVolumeNode") -> None:
        self.volume = volume
        self._calibration: Calibration | None = None

    @classmethod
    def of(cls, node: "slicer.vtkMRMLNode | None") -> "Result | None":
        """The result whose NLL volume the node is, if it is one and complete."""
        if node is None or node.GetAttribute(ROLE) != NLL or node.GetImageData() is None:
            return None
        result = cls(node)
        try:
            result.calibration  # noqa: B018 - is read once, and kept
        except (SpecError, ValueError, TypeError):
            return None  # an attribute was changed by somebody else
        return result

    @classmethod
    def all(cls) -> "list[Result]":
        """The results of the scene."""
        found = (cls.of(node) for node in getNodesByClass("vtkMRMLScalarVolumeNode"))
        return [result for result in found if result is not None]

    @property
    def id(self) -> str:
        """The NLL volume's node id."""
        return self.volume.GetID()

    @property
    def scan(self) -> "slicer.vtkMRMLScalarVolumeNode | None":
        """The volume that was searched."""
        return self.volume.GetNodeReference(_SCAN)

    @scan.setter
    def scan(self, node: "slicer.vtkMRMLScalarVolumeNode") -> None:
        self.volume.SetNodeReferenceID(_SCAN, node.GetID())

    @property
    def segmentation(self) -> "slicer.vtkMRMLSegmentationNode | None":
        """The findings as segments."""
        return self.volume.GetNodeReference(f"{_PREFIX}{SEGMENTATION}")

    @segmentation.setter
    def segmentation(self, node: "slicer.vtkMRMLSegmentationNode") -> None:
        node.SetAttribute(ROLE, SEGMENTATION)
        self.volume.SetNodeReferenceID(f"{_PREFIX}{SEGMENTATION}", node.GetID())

    @property
    def table(self) -> "slicer.vtkMRMLTableNode | None":
        """The findings as rows."""
        return self.volume.GetNodeReference(f"{_PREFIX}{FINDINGS}")

    @table.setter
    def table(self, node: "slicer.vtkMRMLTableNode") -> None:
        node.SetAttribute(ROLE, FINDINGS)
        self.volume.SetNodeReferenceID(f"{_PREFIX}{FINDINGS}", node.GetID())

    @property
    def calibration(self) -> Calibration:
        """What the NLL means, as it was when the result was found in the scene."""
        if self._calibration is None:
            self._calibration = Calibration.from_dict(json.loads(self._attribute("Calibration")))
        return self._calibration

    @calibration.setter
    def calibration(self, values: Calibration) -> None:
        self._setAttribute("Calibration", json.dumps(values.to_dict()))
        self._calibration = values

    @property
    def caseScore(self) -> float | None:
        """Case score of the scan; None if the result has none."""
        score = self._number("CaseScore")
        return score if math.isfinite(score) else None

    @caseScore.setter
    def caseScore(self, score: float) -> None:
        self._setAttribute("CaseScore", repr(float(score)))

    @property
    def modelName(self) -> str:
        """The model that was used."""
        return self._attribute("Model")

    @modelName.setter
    def modelName(self, name: str) -> None:
        self._setAttribute("Model", name)

    @property
    def falsePositiveRate(self) -> float:
        """Share of normal voxels above the threshold that is shown."""
        rate = self._number("FalsePositiveRate")
        return rate if 0.0 < rate < 1.0 else FindingsSpec.false_positive_rate

    @falsePositiveRate.setter
    def falsePositiveRate(self, rate: float) -> None:
        self._setAttribute("FalsePositiveRate", repr(float(rate)))

    @property
    def leastVolumeMl(self) -> float:
        """Smaller regions are not findings."""
        volume = self._number("LeastVolumeMl")
        return volume if 0.0 <= volume < math.inf else FindingsSpec.min_volume_ml

    @leastVolumeMl.setter
    def leastVolumeMl(self, volume: float) -> None:
        self._setAttribute("LeastVolumeMl", repr(float(volume)))

    @property
    def threshold(self) -> float:
        """The least NLL of what is shown, nats per channel."""
        return self.calibration.threshold(self.falsePositiveRate)

    def mark(self) -> None:
        """Make the volume known as an NLL volume; the last step of making a result."""
        self.volume.SetAttribute(ROLE, NLL)

    def _attribute(self, name: str) -> str:
        return self.volume.GetAttribute(_PREFIX + name) or ""

    def _setAttribute(self, name: str, value: str) -> None:
        self.volume.SetAttribute(_PREFIX + name, value)

    def _number(self, name: str) -> float:
        """NaN where the attribute was changed by somebody else."""
        try:
            return float(self._attribute(name))
        except ValueError:
            return math.nan
