"""The result of a detection in the scene: an NLL volume and the nodes that belong to it.

It consists of nodes with their attributes and references only, so it is saved with the scene.
"""

import json
import math
from typing import Any

import slicer
from slicer.util import getNodesByClass

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import ROLE

NLL, SEGMENTATION, FINDINGS, NUMBERS = "NLL", "Segmentation", "Findings", "Numbers"

_PREFIX = "SpatialARAnomaly."
_SCAN = f"{_PREFIX}Scan"


class Result:
    """The nodes of one result, found from its NLL volume; deleted nodes are None."""

    def __init__(self, volume: "slicer.vtkMRMLScalarVolumeNode") -> None:
        self.volume = volume
        self._calibration: Calibration | None = None

    @classmethod
    def of(cls, node: "slicer.vtkMRMLNode | None") -> "Result | None":
        """Return the result of an NLL volume; None if the node is not one or is incomplete."""
        if node is None or node.GetAttribute(ROLE) != NLL or node.GetImageData() is None:
            return None
        result = cls(node)
        try:
            result.calibration  # noqa: B018 - the first access checks and caches it
        except (SpecError, ValueError, TypeError):
            return None  # another program changed the attribute
        return result

    @classmethod
    def all(cls) -> "list[Result]":
        """Return all results of the scene."""
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
    def numbers(self) -> "slicer.vtkMRMLMarkupsFiducialNode | None":
        """The ranks of the findings, at their peaks in the views."""
        return self.volume.GetNodeReference(f"{_PREFIX}{NUMBERS}")

    @numbers.setter
    def numbers(self, node: "slicer.vtkMRMLMarkupsFiducialNode") -> None:
        node.SetAttribute(ROLE, NUMBERS)
        self.volume.SetNodeReferenceID(f"{_PREFIX}{NUMBERS}", node.GetID())

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The rows of the findings, the strongest first; positions in the scan's own space."""
        return readRows(self.table)

    @property
    def calibration(self) -> Calibration:
        """Calibration of the model, cached at the first access."""
        if self._calibration is None:
            self._calibration = Calibration.from_dict(json.loads(self._attribute("Calibration")))
        return self._calibration

    @calibration.setter
    def calibration(self, values: Calibration) -> None:
        self._setAttribute("Calibration", json.dumps(values.to_dict()))
        self._calibration = values

    @property
    def caseScore(self) -> float | None:
        """Case score of the scan; None if unknown."""
        score = self._number("CaseScore")
        return score if math.isfinite(score) else None

    @caseScore.setter
    def caseScore(self, score: float) -> None:
        self._setAttribute("CaseScore", repr(float(score)))

    @property
    def cautions(self) -> list[str]:
        """Reasons to doubt the result as a whole."""
        try:
            texts = json.loads(self._attribute("Cautions"))
        except ValueError:  # none, or another program changed the attribute
            return []
        return [str(one) for one in texts] if isinstance(texts, list) else []

    @cautions.setter
    def cautions(self, texts: list[str]) -> None:
        self._setAttribute("Cautions", json.dumps(texts))

    @property
    def modelName(self) -> str:
        """Name of the model that was used."""
        return self._attribute("Model")

    @modelName.setter
    def modelName(self, name: str) -> None:
        self._setAttribute("Model", name)

    @property
    def modelFacts(self) -> dict[str, Any]:
        """Modality, plane, card in words and notices of the model; empty if unknown."""
        try:
            facts = json.loads(self._attribute("ModelFacts"))
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    @modelFacts.setter
    def modelFacts(self, facts: dict[str, Any]) -> None:
        self._setAttribute("ModelFacts", json.dumps(facts))

    @property
    def falsePositiveRate(self) -> float:
        """False-positive rate of the threshold."""
        rate = self._number("FalsePositiveRate")
        return rate if 0.0 < rate < 1.0 else FindingsSpec.false_positive_rate

    @falsePositiveRate.setter
    def falsePositiveRate(self, rate: float) -> None:
        self._setAttribute("FalsePositiveRate", repr(float(rate)))

    @property
    def leastVolumeMl(self) -> float:
        """Smallest volume of a finding, ml."""
        volume = self._number("LeastVolumeMl")
        return volume if 0.0 <= volume < math.inf else FindingsSpec.min_volume_ml

    @leastVolumeMl.setter
    def leastVolumeMl(self, volume: float) -> None:
        self._setAttribute("LeastVolumeMl", repr(float(volume)))

    @property
    def tokenMm(self) -> float | None:
        """Side of a token in mm, where outlines are refined; None where they are raw."""
        side = self._number("TokenMm")
        return side if 0.0 < side < math.inf else None

    @tokenMm.setter
    def tokenMm(self, side: float) -> None:
        self._setAttribute("TokenMm", repr(float(side)))

    @property
    def threshold(self) -> float:
        """NLL of the threshold, nats per channel."""
        return self.calibration.threshold(self.falsePositiveRate)

    def mark(self) -> None:
        """Mark the volume as an NLL volume, as the last step of adding a result."""
        self.volume.SetAttribute(ROLE, NLL)

    def _attribute(self, name: str) -> str:
        return self.volume.GetAttribute(_PREFIX + name) or ""

    def _setAttribute(self, name: str, value: str) -> None:
        self.volume.SetAttribute(_PREFIX + name, value)

    def _number(self, name: str) -> float:
        """Return NaN if another program changed the attribute."""
        try:
            return float(self._attribute(name))
        except ValueError:
            return math.nan
