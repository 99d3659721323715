"""Results as DICOM: SEG, Parametric Map, Secondary Capture and a structured report (TID 1500).

They join the study of the scan as new series. All UIDs follow from the UIDs of the scan's images,
the model and the settings, so that a repeated detection makes the same objects.
"""

import hashlib
import uuid
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt16

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.specs import FindingsSpec, Modality
from SpatialARAnomalyLib.service.detection.detect import Detection
from SpatialARAnomalyLib.service.detection.dicom_source import SourceImages
from SpatialARAnomalyLib.service.detection.findings_table import TERMINOLOGY, finding_row
from SpatialARAnomalyLib.service.detection.review_case import ReviewCase
from SpatialARAnomalyLib.service.detection.review_picture import write_review
from SpatialARAnomalyLib.service.detection.segmentation_file import Segment, finding_segment
from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE

PROGRAM = "SpatialARAnomaly"
"""Manufacturer, model name and algorithm of the results."""

SCHEME = "99SPATIALAR"
"""Coding scheme of the quantities that have no code in DICOM."""

QUANTITIES = {
    "nll": "Negative log-likelihood",
    "strength": "Strength (excess of the negative log-likelihood, summed)",
    "peak_p_value": "Share of normal body voxels with a higher value",
    "per_normal_scan": "Findings like this in a normal scan",
    "threshold_nll": "Threshold of the negative log-likelihood",
    "case_score": "Case score",
    "case_p_value": "Share of normal scans with a higher case score",
    "findings": "Number of findings",
    "caution": "Caution",
}
"""Codes of `SCHEME` with their meanings."""

CAUTIONS = {
    "scan-unlike": "The scan does not look like the model's normal scans",
    "scan-known": "The model was trained or calibrated with this scan",
    "share-outside": "No normal scan has such a share above the threshold",
    "case-least": "The case p-value is the least that the model can give",
}
"""Codes of `SCHEME` for cautions, with their meanings (at most 64 characters)."""

_UNITS = {
    "nll": ("{nat}/{channel}", "nats per channel"),
    "strength": ("ml.{nat}", "nats per channel times mL"),
    "volume": ("ml", "milliliter"),
    "one": ("1", "no units"),
}

_PROCEDURES = {
    Modality.CT: ("SCT", "77477000", "Computed tomography"),
    Modality.MR: ("SCT", "113091000", "Magnetic resonance imaging"),
}

SEG = "dicom_seg"
"""Kind of the segmentation, which is left out where there are no findings."""

_SERIES = {
    SEG: (9001, "findings"),
    "dicom_nll": (9002, "NLL"),
    "dicom_review": (9003, "review picture"),
    "dicom_report": (9004, "report"),
}
"""Series Number and description of each kind of object."""

DICOM_KINDS = tuple(_SERIES)
"""Kinds of objects, in the order in which one may refer to another."""

_NAMESPACE = uuid.UUID("8d0f1bb6-2f5a-4c63-9d0f-0a5a2f7a6c11")


def result_identity(detection: Detection, source: SourceImages) -> str:
    """Return a hash of all that the results follow from: images, model and settings."""
    mask, spec = detection.volume.mask, detection.spec
    parts = (
        *source.identity,
        detection.card.weights_sha256,
        repr(detection.threshold_nll),
        repr((spec.false_positive_rate, spec.min_volume_ml, spec.refine_outlines)),
        "" if mask is None else hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
        __version__,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def result_uid(identity: str, *what: object) -> str:
    """Return the UID of an object or series of a result: a UUID (DICOM PS3.5 B.2) of its name."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, (identity, *what)))).int}"


def dicom_results(detection: Detection, case: ReviewCase, source: SourceImages) -> dict[str, Any]:
    """Return the results of a detection as DICOM data sets, by kind.

    Without findings there is no SEG, because a segmentation has at least one segment.
    """
    identity = result_identity(detection, source)
    with warnings.catch_warnings(action="ignore"):  # of values that the scan's own headers hold
        results = {}
        if detection.findings:
            results[SEG] = _segmentation(
                detection.labels,
                [finding_segment(one.rank) for one in detection.findings],
                _algorithm(detection),
                source,
                identity,
            )
        results["dicom_nll"] = _parametric_map(detection, source, identity)
        results["dicom_review"] = _secondary_capture(case, source, identity)
        results["dicom_report"] = _report(detection, source, identity, dict(results))
    return results


def _origin(kind: str, identity: str) -> dict[str, Any]:
    """Return the attributes of series, instance and equipment."""
    number, what = _SERIES[kind]
    return {
        "series_instance_uid": result_uid(identity, kind, "series"),
        "series_number": number,
        "series_description": f"{PROGRAM} {what} (research only)",
        "sop_instance_uid": result_uid(identity, kind),
        "instance_number": 1,
        "manufacturer": PROGRAM,
        "manufacturer_model_name": PROGRAM,
        "software_versions": __version__,
    }


def reviewed_segmentation(
    labels: UInt16[np.ndarray, "k j i"],
    segments: Sequence[Segment],
    model: str,
    weights_sha256: str,
    spec: FindingsSpec,
    source: SourceImages,
) -> Any:
    """Return findings that a user has reviewed, and perhaps edited, as DICOM SEG.

    `labels` lie on the grid of the images. The same labels, segments, model and settings make the
    same object.
    """
    parts = (
        *source.identity,
        weights_sha256,
        repr((spec.false_positive_rate, spec.min_volume_ml)),
        hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest(),
        repr(segments),
        __version__,
    )
    identity = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with warnings.catch_warnings(action="ignore"):  # of values that the scan's own headers hold
        algorithm = _algorithm_values(model, weights_sha256, spec)
        return _segmentation(labels, segments, algorithm, source, identity, "SEMIAUTOMATIC")


def _algorithm(detection: Detection) -> dict[str, Any]:
    card = detection.card
    return _algorithm_values(card.name, card.weights_sha256, detection.spec)


def _algorithm_values(model: str, weights_sha256: str, spec: FindingsSpec) -> dict[str, Any]:
    from pydicom.sr.codedict import codes

    return {
        "name": PROGRAM,
        "version": __version__,
        "family": codes.cid7162.ArtificialIntelligence,
        "parameters": {
            "model": model,
            "model_sha256": weights_sha256,
            "false_positive_rate": f"{spec.false_positive_rate:g}",
            "min_volume_ml": f"{spec.min_volume_ml:g}",
        },
    }


def _frames(source: SourceImages) -> dict[str, Any]:
    """Return the places of the frames: exactly those of the images."""
    from highdicom import (
        PixelMeasuresSequence,
        PlaneOrientationSequence,
        PlanePositionSequence,
    )

    return {
        "source_images": source.images,
        "plane_orientation": PlaneOrientationSequence("PATIENT", source.orientation),
        "pixel_measures": PixelMeasuresSequence(
            source.spacing, source.thickness_mm, source.step_mm
        ),
        "plane_positions": [PlanePositionSequence("PATIENT", one) for one in source.positions],
    }


def _segmentation(
    labels: UInt16[np.ndarray, "k j i"],
    segments: Sequence[Segment],
    algorithm: dict[str, Any],
    source: SourceImages,
    identity: str,
    kind: str = "AUTOMATIC",
) -> Any:
    """Return segments, numbered from 1, as DICOM SEG; `kind` is that of findings (0062,0008)."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import Segmentation, SegmentDescription

    identification = AlgorithmIdentificationSequence(**algorithm)
    numbers = np.zeros(np.iinfo(np.uint16).max + 1, np.uint16)
    descriptions = []
    for number, one in enumerate(segments, start=1):
        numbers[one.value] = number
        is_finding = one.id == finding_segment(one.value).id
        descriptions.append(
            SegmentDescription(
                segment_number=number,
                segment_label=one.name[:64] or one.id[:64],
                segmented_property_category=_concept(*TERMINOLOGY["category"]),
                segmented_property_type=_concept(*TERMINOLOGY["type"]),
                algorithm_type=kind if is_finding else "MANUAL",
                algorithm_identification=identification if is_finding else None,
                tracking_uid=result_uid(identity, "finding", one.value),
                tracking_id=one.name[:64] or one.id[:64],
                display_color=CIELabColor.from_rgb(*(round(255 * part) for part in one.color)),
            )
        )
    result = Segmentation(
        **_frames(source),
        **_origin(SEG, identity),
        pixel_array=numbers[labels[source.slices]],
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        device_serial_number=algorithm["parameters"]["model_sha256"][:16],
        content_label="FINDINGS",
        content_description=RESEARCH_NOTICE,
    )
    return _with_own_dimension(result, identity)


def _parametric_map(detection: Detection, source: SourceImages, identity: str) -> Any:
    from highdicom import VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping

    nll = np.ascontiguousarray(detection.nll[source.slices], dtype=np.float32)
    low, high = float(nll.min()), float(nll.max())
    mapping = RealWorldValueMapping(
        lut_label="NLL",
        lut_explanation="Negative log-likelihood, nats per channel",
        unit=_unit("nll"),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=_quantity("nll"),
    )
    result = ParametricMap(
        **_frames(source),
        **_origin("dicom_nll", identity),
        pixel_array=nll,
        device_serial_number=detection.card.weights_sha256[:16],
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            VOILUTTransformation(
                (low + high) / 2, max(high - low, 1e-3), voi_lut_function="LINEAR_EXACT"
            )
        ],
        content_label="NLL",
        content_description=RESEARCH_NOTICE,
    )
    result.Laterality = ""
    return _with_own_dimension(result, identity)


def _with_own_dimension(result: Any, identity: str) -> Any:
    """Return the object with a UID of its dimensions that is not random."""
    uid = result_uid(identity, result.Modality, "dimension")
    for one in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):
        one.DimensionOrganizationUID = uid
    return result


def _secondary_capture(case: ReviewCase, source: SourceImages, identity: str) -> Any:
    from highdicom.sc import SCImage
    from matplotlib.image import imread
    from pydicom.uid import ExplicitVRLittleEndian

    picture = BytesIO()
    write_review(picture, case)
    picture.seek(0)
    result = SCImage.from_ref_dataset(
        source.images[0],
        np.rint(255 * imread(picture)[..., :3]).astype(np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **_origin("dicom_review", identity),
    )
    result.PatientOrientation = []  # several slices, of any plane
    result.Laterality = ""
    result.ConversionType = "WSD"
    result.BurnedInAnnotation = "NO"  # nothing that names a patient
    result.ImageComments = RESEARCH_NOTICE
    return result


def _report(
    detection: Detection, source: SourceImages, identity: str, results: dict[str, Any]
) -> Any:
    """Return the structured report: a group for each finding, and one for the case."""
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    values = _algorithm(detection)
    values["parameters"] = [f"{key}={value}" for key, value in values["parameters"].items()]
    algorithm = sr.AlgorithmIdentification(**values, manufacturer=PROGRAM)
    groups: list[Any] = [_case_group(detection, identity, algorithm)]
    for one in detection.findings:
        row, segmentation = finding_row(one), results[SEG]
        measurements = [
            sr.Measurement(codes.SCT.Volume, round(one.volume_ml, 4), _unit("volume")),
            _measure("nll", row["peak_nll"], "nll", derivation=codes.SCT.Maximum),
            _measure("nll", row["mean_nll"], "nll", derivation=codes.SCT.Mean),
            _measure("strength", row["strength"], "strength"),
            _measure("peak_p_value", row["peak_p_value"]),
        ]
        if row["per_normal_scan"] is not None:
            measurements.append(_measure("per_normal_scan", row["per_normal_scan"]))
        groups.append(
            sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(
                    result_uid(identity, "finding", one.rank), f"Finding {one.rank}"
                ),
                referenced_segment=sr.ReferencedSegment(
                    segmentation.SOPClassUID,
                    segmentation.SOPInstanceUID,
                    one.rank,
                    source_series=sr.SourceSeriesForSegmentation(
                        source.images[0].SeriesInstanceUID
                    ),
                ),
                finding_type=_concept(*TERMINOLOGY["type"]),
                finding_category=_concept(*TERMINOLOGY["category"]),
                algorithm_id=algorithm,
                measurements=measurements,
            )
        )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                codes.DCM.Device,
                sr.DeviceObserverIdentifyingAttributes(
                    uid=result_uid(identity, "device"),
                    name=PROGRAM,
                    manufacturer_name=PROGRAM,
                    model_name=PROGRAM,
                    serial_number=detection.card.weights_sha256[:16],
                ),
            )
        ),
        procedure_reported=_concept(*_PROCEDURES[detection.card.modality]),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    objects = [one for kind, one in results.items() if kind != "dicom_review"]
    return sr.Comprehensive3DSR(
        evidence=[*source.images, *objects],
        content=content[0],
        is_complete=True,
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name=PROGRAM)],
        **_origin("dicom_report", identity),
    )


def _case_group(detection: Detection, identity: str, algorithm: Any) -> Any:
    from highdicom import sr

    measurements = [
        _measure("findings", len(detection.findings)),
        _measure("threshold_nll", _rounded(detection.threshold_nll), "nll"),
        _measure("case_score", _rounded(detection.case_score), "nll"),
    ]
    if detection.case_p_value is not None:
        measurements.append(_measure("case_p_value", _rounded(detection.case_p_value)))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(result_uid(identity, "case"), "Case"),
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                _quantity("caution"), _concept(SCHEME, one.code, CAUTIONS[one.code])
            )
            for one in detection.cautions
        ]
        or None,
    )


def _measure(quantity: str, value: Any, unit: str = "one", derivation: Any = None) -> Any:
    from highdicom.sr import Measurement

    return Measurement(_quantity(quantity), value, _unit(unit), derivation=derivation)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _concept(scheme: str, value: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, scheme, meaning)


def _quantity(name: str) -> Any:
    return _concept(SCHEME, name, QUANTITIES[name])


def _unit(name: str) -> Any:
    return _concept("UCUM", *_UNITS[name])
