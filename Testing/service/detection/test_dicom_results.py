"""Results as DICOM lie on the scan they came from, refer to it, and hold nothing else of it."""

import ast
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from engine.dicom_examples import Series, multi_frame, save, small_series
from engine.dicom_oracle import read_images
from engine.odd_examples import make
from engine.odd_files import ODD
from PIL import Image
from service.dicom_site import PRIVATE, dicom_head
from service.small_site import run, tree
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.scoring.findings import LabelBox
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS
from SpatialARAnomalyLib.service.detection import cautions, dicom_source
from SpatialARAnomalyLib.service.detection import dicom_results as dicom_results_module
from SpatialARAnomalyLib.service.detection.detect import detect
from SpatialARAnomalyLib.service.detection.dicom_results import (
    CAUTIONS,
    DICOM_KINDS,
    QUANTITIES,
    dicom_results,
)
from SpatialARAnomalyLib.service.detection.dicom_source import PATIENT_AND_STUDY, read_source
from SpatialARAnomalyLib.service.detection.findings_table import TERMINOLOGY, finding_row
from SpatialARAnomalyLib.service.detection.model_cache import load_model
from SpatialARAnomalyLib.service.detection.review_case import case_of
from SpatialARAnomalyLib.service.scans import read_volume

PLACE_MM = 1e-3
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
FILED = {"StudyInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}


@pytest.fixture(scope="module")
def detection(tmp_path_factory, site):
    """A detection with findings in a head that is DICOM."""
    folder = dicom_head(tmp_path_factory.mktemp("dicom") / "study")
    model = load_model(site.model, "cpu")
    found = detect(read_volume(folder), model, FindingsSpec(false_positive_rate=0.02))
    assert found.findings
    return found


def without(series: Series, folder: Path, *slices: int) -> Path:
    series.write(folder)
    for k in slices:
        (folder / f"image {len(series.stored) - k:03d}.dcm").unlink()
    return folder


def shuffled_echoes(folder: Path) -> Path:
    echoes = [small_series(4, "u2", orientation=OBLIQUE, attributes=FILED) for _ in range(2)]
    echoes[1] = echoes[1].with_(stored=echoes[1].stored[::-1])
    own = [{"MREchoSequence": {"EffectiveEchoTime": time}} for time in (4.6, 9.2)]
    folder.mkdir()
    save(multi_frame(echoes, own, {}), folder / "object.dcm")
    return folder


SCANS = {
    "oblique": lambda folder: small_series(7, orientation=OBLIQUE, attributes=FILED).write(folder),
    "tilted": lambda folder: small_series(step=(0.0, 0.6, 2.5), attributes=FILED).write(folder),
    "one slice": lambda folder: small_series(1, attributes=FILED | {"SliceThickness": 3.0}).write(
        folder
    ),
    "gaps": lambda folder: without(
        small_series(12, orientation=OBLIQUE, attributes=FILED), folder, 4, 7
    ),
    "frames of two echoes": shuffled_echoes,
    "gzip": lambda folder: ODD / "d59_gzipped_dicom",
    "headless": lambda folder: ODD / "d49_no_preamble_no_meta",
    "Philips, magnitude": lambda folder: ODD / "d24_enhanced_philips_fieldmap",
}
OPTIONS = {
    "gaps": {"allow_gaps": True},
    "frames of two echoes": {"volume": 2},
    "Philips, magnitude": {"volume": 2},
}


IODS = ("Segmentation", "ParametricMap", "SCImage", "Comprehensive3DSR")
"""What dciodvfy takes the objects for."""


def placed(path: Path):
    """Places of the frames of a result, and their pixels, by pydicom alone."""
    result = pydicom.dcmread(path)
    (shared,) = result.SharedFunctionalGroupsSequence
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    pixels = np.atleast_3d(result.pixel_array)
    pixels = pixels.reshape(-1, result.Rows, result.Columns)
    for frame, values in zip(result.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        yield frame, origin, orientation[:3] * spacing[1], orientation[3:] * spacing[0], values


@pytest.fixture
def one_picture(monkeypatch):
    """The same small picture for all reviews, which take the most time."""
    picture = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 100, np.uint8)).save(picture, "png")
    monkeypatch.setattr(
        dicom_results_module, "write_review", lambda file, case: file.write(picture.getvalue())
    )


@pytest.mark.parametrize("name", SCANS)
def test_results_lie_on_the_images_they_came_from(name, tmp_path, detection, one_picture):
    """A scan as its own NLL comes back pixel for pixel, frame by frame."""
    scan = SCANS[name](tmp_path / "scan")
    volume = read_volume(scan, **OPTIONS.get(name, {}))
    labels = (volume.voxels > np.median(volume.voxels)).astype(np.uint16)
    labels[..., : labels.shape[2] // 2] *= 2
    findings = [replace(detection.findings[0], rank=rank) for rank in (1, 2)]
    painted = replace(
        detection,
        volume=volume,
        nll=volume.voxels,
        findings=findings,
        label_box=LabelBox(labels, (0, 0, 0)),
    )
    source = read_source(volume)
    results = dicom_results(painted, case_of(detection), source)
    for kind in ("dicom_nll", "dicom_seg"):
        save(results[kind], tmp_path / kind)

    images = read_images(
        [scan] if scan.is_file() else sorted(p for p in scan.rglob("*") if p.is_file())
    )
    found = 0
    for frame, origin, along_column_index, along_row_index, values in placed(
        tmp_path / "dicom_nll"
    ):
        (referred,) = frame.DerivationImageSequence[0].SourceImageSequence
        same = [
            image
            for image in images
            if np.linalg.norm(image.origin - origin) <= PLACE_MM
            and np.array_equal(image.pixels.astype(np.float32), values)
        ]
        assert len(same) == 1
        far = max(values.shape)
        for step, other in (
            (along_column_index, same[0].along_column_index),
            (along_row_index, same[0].along_row_index),
        ):
            assert np.linalg.norm((step - other) * far) <= PLACE_MM
        assert referred.ReferencedSOPInstanceUID in {one.split("#")[0] for one in source.identity}
        found += 1
    assert found == len(volume.sources)

    ijk = np.linalg.inv(LPS_FROM_RAS @ volume.ras_from_voxel)
    seen = np.zeros_like(labels)
    for frame, origin, _, _, values in placed(tmp_path / "dicom_seg"):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        i, j, k = (ijk @ [*origin, 1])[:3]
        assert abs(i) < 0.1
        assert abs(j) < 0.1
        seen[round(k)] += (number * values).astype(np.uint16)
    kept = np.zeros_like(labels)
    kept[source.slices] = labels[source.slices]
    np.testing.assert_array_equal(seen, kept)


def test_objects_say_what_they_hold(tmp_path, detection):
    results = dicom_results(detection, case_of(detection), read_source(detection.volume))
    assert tuple(results) == DICOM_KINDS
    for kind, result in results.items():
        save(result, tmp_path / kind)

    seg = hd.seg.segread(tmp_path / "dicom_seg")
    assert seg.number_of_segments == len(detection.findings)
    description = seg.get_segment_description(1)
    coded = description.segmented_property_type
    assert [coded.scheme_designator, coded.value] == TERMINOLOGY["type"][:2]
    coded = description.segmented_property_category
    assert [coded.scheme_designator, coded.value] == TERMINOLOGY["category"][:2]
    algorithm = description.algorithm_identification
    assert algorithm.name == seg.ManufacturerModelName == "SpatialARAnomaly"
    assert algorithm.parameters["model_sha256"] == detection.card.weights_sha256
    volume = seg.get_volume(combine_segments=True)
    ranks = volume.array.transpose(2, 1, 0)
    assert np.unique(ranks).tolist() == [0, *(one.rank for one in detection.findings)]
    for i, j, k in np.argwhere(ranks)[:: max(1, ranks.size // 50)]:
        lps = volume.affine @ [k, j, i, 1]
        ijk = np.linalg.inv(LPS_FROM_RAS @ detection.volume.ras_from_voxel) @ lps
        nearest = np.rint(ijk[:3]).astype(int)
        back = LPS_FROM_RAS @ detection.volume.ras_from_voxel @ [*nearest, 1]
        assert np.linalg.norm(back[:3] - lps[:3]) <= PLACE_MM
        assert detection.labels[tuple(nearest[::-1])] == ranks[i, j, k]

    nll = pydicom.dcmread(tmp_path / "dicom_nll")
    (mapping,) = nll.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "{nat}/{channel}"
    assert mapping.RealWorldValueSlope == 1

    report = hd.sr.srread(tmp_path / "dicom_report")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(detection.findings)
    for group, finding in zip(groups, detection.findings, strict=True):
        row = finding_row(finding)
        assert group.tracking_uid == seg.get_segment_description(finding.rank).tracking_uid
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        measured = {one.name.value: one.value for one in group.get_measurements()}
        assert measured["118565006"] == row["volume_ml"]
        assert measured["strength"] == row["strength"]
        assert measured["per_normal_scan"] == row["per_normal_scan"]
    case = report.content.get_image_measurement_groups()[0]
    evaluated = [
        one.value.value for one in case.get_qualitative_evaluations() if one.name.value == "caution"
    ]
    assert evaluated == [one.code for one in detection.cautions]
    assert "scan-unlike" in evaluated
    measured = {one.name.value: one.value for one in case.get_measurements()}
    assert measured["findings"] == len(detection.findings)

    picture = pydicom.dcmread(tmp_path / "dicom_review")
    assert picture.pixel_array.ndim == 3
    assert picture.pixel_array.std() > 10


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs Debian's package dicom3tools")
@pytest.mark.parametrize("name", ["oblique", "gaps", "frames of two echoes", "Philips, magnitude"])
def test_another_program_finds_no_error_in_the_objects(name, tmp_path, detection):
    volume = read_volume(SCANS[name](tmp_path / "scan"), **OPTIONS.get(name, {}))
    labels = (volume.voxels > np.median(volume.voxels)).astype(np.uint16)
    found = replace(
        detection, volume=volume, nll=volume.voxels, label_box=LabelBox(labels, (0, 0, 0)),
        findings=detection.findings[:1],
    )  # fmt: skip
    for kind, result in dicom_results(found, case_of(detection), read_source(volume)).items():
        file = save(result, tmp_path / kind)
        checked = subprocess.run(
            ["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False
        )
        said = (checked.stdout + checked.stderr).splitlines()
        assert [one for one in said if one.startswith("Error")] == [], kind
        assert any(one in said for one in IODS), said


def test_only_what_files_a_result_in_its_study_is_copied(detection, one_picture):
    source = read_source(detection.volume)
    header = pydicom.dcmread(detection.volume.sources[0].path)
    for result in dicom_results(detection, case_of(detection), source).values():
        for tag in PATIENT_AND_STUDY:
            assert str(result.get(tag) or "") == str(header.get(tag) or ""), tag
        text = result.to_json_dict(suppress_invalid_tags=True)
        assert PRIVATE not in json.dumps(text, default=str)
        assert result.SeriesInstanceUID != header.SeriesInstanceUID
        assert result.SoftwareVersions


def test_uids_follow_from_images_model_and_settings(detection, one_picture):
    source, case = read_source(detection.volume), case_of(detection)

    def uids(of):
        results = dicom_results(of, case, source).values()
        return {uid for one in results for uid in (one.SOPInstanceUID, one.SeriesInstanceUID)}

    first = uids(detection)
    assert first == uids(detection)
    assert len(first) == 2 * len(DICOM_KINDS)
    assert all(hd.UID(uid).is_valid for uid in first)
    half = np.zeros(detection.nll.shape, bool)
    half[:2] = True
    others = (
        replace(detection, spec=replace(detection.spec, min_volume_ml=0.7)),
        replace(detection, card=replace(detection.card, weights_sha256="0" * 64)),
        replace(detection, volume=replace(detection.volume, mask=half)),
    )
    for other in others:
        assert not first & uids(other)


def test_every_caution_has_a_meaning_that_dicom_can_hold():
    tree = ast.parse(Path(cautions.__file__).read_text(encoding="utf-8"))
    codes = {
        one.value.value
        for one in ast.walk(tree)
        if isinstance(one, ast.keyword) and one.arg == "code"
    }
    assert codes == set(CAUTIONS)
    assert all(len(one) <= 64 for one in (*CAUTIONS.values(), *QUANTITIES.values()))


def test_results_without_findings_have_no_segmentation(tmp_path, detection, one_picture):
    empty = replace(detection, findings=[], label_box=None)
    results = dicom_results(empty, case_of(empty), read_source(detection.volume))
    assert tuple(results) == DICOM_KINDS[1:]
    report = hd.sr.srread(save(results["dicom_report"], tmp_path / "report.dcm"))
    (case,) = report.content.get_image_measurement_groups()
    measured = {one.name.value: one.value for one in case.get_measurements()}
    assert measured["findings"] == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"FrameOfReferenceUID": None}, "they lack FrameOfReferenceUID"),
        ({"SOPInstanceUID": "1.2.3"}, "several have one SOPInstanceUID"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "neither CT or MR images"),
    ],
)
def test_images_that_no_result_can_refer_to_are_refused(tmp_path, change, says):
    series = small_series(attributes=FILED | change)
    with pytest.raises(InputError, match=says) as refused:
        read_source(read_volume(series.write(tmp_path / "scan")))
    assert refused.value.code == "dicom-reference"


def test_only_dicom_has_dicom_results(tmp_path):
    with pytest.raises(InputError) as refused:
        read_source(read_volume(make("unknown_unit.nii.gz", tmp_path)))
    assert refused.value.code == "dicom-source"


def test_without_its_packages_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_source, "find_spec", lambda name: None)
    arguments = "detect", tmp_path, "--model", "m", "--out", tmp_path / "out", "--dicom"
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "spatial-ar-anomaly[dicomweb]" in refused.stderr


@pytest.mark.slow
def test_detect_writes_dicom_beside_the_others(tmp_path, site):
    folder = dicom_head(tmp_path / "study")
    arguments = "detect", folder, "--model", site.model, "--out", tmp_path / "out", "--dicom"
    done = run(*arguments, "--false-positive-rate", "0.02")
    assert done.exit_code == 0, done.stderr
    names = set(tree(tmp_path / "out"))
    ends = {"seg", "nll", "review", "report"}
    assert {f"study_{end}.dcm" for end in ends} <= names
    outputs = json.loads((tmp_path / "out/run.json").read_text())["outputs"]
    assert outputs["dicom_seg"] == "<name>_seg.dcm"
    first = pydicom.dcmread(tmp_path / "out/study_seg.dcm").SOPInstanceUID

    # Stricter settings find nothing: the earlier segmentation goes with the rest.
    again = run(*arguments, "--min-volume-ml", "100000", "--overwrite")
    assert again.exit_code == 0, again.stderr
    assert "study_seg.dcm" not in tree(tmp_path / "out")
    report = pydicom.dcmread(tmp_path / "out/study_report.dcm")
    assert report.SOPInstanceUID != first
