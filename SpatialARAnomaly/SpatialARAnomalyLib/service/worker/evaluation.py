"""The job `evaluate`: compare the NLL volume of one scan with its ground truth, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.slices.intensity import intensity_range, scale_intensity
from SpatialARAnomalyLib.engine.specs import FindingsSpec, IntensitySpec, Modality, Spec
from SpatialARAnomalyLib.engine.volumes.geometry import check_ras_from_voxel, voxel_ml
from SpatialARAnomalyLib.engine.volumes.volume import Volume, finite_scan, infer_modality
from SpatialARAnomalyLib.service.array_files import (
    Affine,
    affine_array,
    check_same_size,
    read_nll,
    read_truth,
    read_voxels,
)
from SpatialARAnomalyLib.service.evaluation.evaluate import (
    Evaluated,
    ScanFacts,
    evaluate_scores,
    score_kinds,
    search_rules,
)
from SpatialARAnomalyLib.service.evaluation.files import (
    EVALUATION_FILES,
    as_result,
    write_evaluation,
)
from SpatialARAnomalyLib.service.evaluation.picture import write_picture
from SpatialARAnomalyLib.service.outputs import check_names, write_atomically

PREVIEW_FILE = "preview.png"
"""Picture of the curves in one column, for the panel."""


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs(Spec):
    """An NLL volume, its calibration, and the ground truth on the same voxels."""

    nll: str
    """A `.npy` file of an array [k, j, i]."""
    truth: str
    """A `.npy` file of the ground truth [k, j, i]; voxels above zero are lesion."""
    voxels: str | None = None
    """A `.npy` file of the scan [k, j, i]; if given, its plain intensity is scored, too."""
    modality: Modality | None = None
    """Modality of the scan and the model."""
    ras_from_voxel: Affine
    calibration: Calibration
    model: str = ""
    """Name of the model, for the record."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(FindingsSpec):
    """Settings of an evaluation."""

    overwrite: bool = False


def evaluate(
    inputs: EvaluateInputs, spec: EvaluateSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Compare one scan's NLL with its ground truth and write the files of an evaluation.

    Raises:
        SpatialARError: The inputs do not fit together, or the output cannot be used; nothing
            is written.
        Cancelled: Through `report`; nothing is written.
    """
    files = EVALUATION_FILES | {"preview": PREVIEW_FILE}
    names = list(files.values())
    report.stage("score", 1, 2)
    check_names(output, names, overwrite=spec.overwrite)
    ras_from_voxel = affine_array(inputs.ras_from_voxel)
    check_ras_from_voxel(ras_from_voxel)
    nll = read_nll(Path(inputs.nll))
    truth = read_truth(Path(inputs.truth))
    check_same_size(nll.shape, truth, "truth")
    body = _body(nll)
    volume = None
    if inputs.voxels is not None:
        volume = finite_scan(
            Volume(read_voxels(Path(inputs.voxels)), ras_from_voxel, inputs.modality)
        )
        check_same_size(nll.shape, volume.voxels, "scan")
    intensity = None if volume is None else _intensity(volume, body)
    report.check_cancelled()
    rules = search_rules(inputs.calibration, spec)
    case = score_kinds(nll, intensity, body, truth, ras_from_voxel, rules, "1", report)
    evaluated = Evaluated(
        evaluations=evaluate_scores([case], rules, 0, 0, report),
        cases=[case],
        facts=[
            ScanFacts(
                sha256="" if volume is None else volume.content_sha256(),
                voxel_ml=voxel_ml(ras_from_voxel),
                case_p_value=inputs.calibration.case_p_value(case["nll"].case_score),
            )
        ],
        spec=spec,
        threshold_nll=rules["nll"].threshold or 0.0,
        context={"model": {"name": inputs.model}},
    )
    report.stage("write", 2, 2)
    with write_atomically(output, names, overwrite=spec.overwrite) as partial:
        write_evaluation(partial, evaluated, report)
        write_picture(partial / PREVIEW_FILE, evaluated, columns=1)
    return as_result(evaluated, {kind: output / name for kind, name in files.items()})


def _body(nll: Float[np.ndarray, "k j i"]) -> Bool[np.ndarray, "k j i"]:
    """Return the voxels that were scored; all others have the lowest NLL of the volume."""
    scored = nll > nll.min()
    return scored if scored.any() else np.ones_like(scored)


def _intensity(volume: Volume, body: Bool[np.ndarray, "k j i"]) -> Float[np.ndarray, "k j i"]:
    """Return intensities in [0, 1], scaled by the default of the volume's modality."""
    spec = IntensitySpec.for_modality(infer_modality(volume))
    return scale_intensity(volume.voxels, intensity_range(volume.voxels, body, spec), spec)
