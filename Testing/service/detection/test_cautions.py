"""Results that should not be trusted as they are carry the reason, everywhere they are shown."""

import dataclasses
import json

import numpy as np
import pytest
from engine.model_examples import CARD
from service.small_site import run
from SpatialARAnomalyLib.engine.cards.suitability import Verdict
from SpatialARAnomalyLib.engine.scoring.calibration_fit import fit_calibration
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file, write_nifti
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.detection.cautions import find_cautions

SAMPLES = [np.random.RandomState(seed).gamma(3.0, size=20_000) for seed in range(5)]
SEVERAL = dataclasses.replace(CARD, calibration=fit_calibration(SAMPLES, SAMPLES))
UNLIKE = Verdict(p_value=0.01, measure="tokens", factor=3.2, normals=12)


def codes(card=SEVERAL, **values) -> list[str]:
    usual = {
        "verdict": None, "rate": 0.01, "share": 0.01, "case_p_value": 0.5, "sha256": "9" * 64,
    }  # fmt: skip
    return [one.code for one in find_cautions(card, **usual | values)]


def test_a_normal_scan_has_none():
    assert codes() == []
    assert codes(verdict=dataclasses.replace(UNLIKE, p_value=0.06)) == []


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("scan-unlike", {"verdict": UNLIKE}),
        ("scan-known", {"sha256": CARD.normals.training_sha256[0]}),
        ("scan-known", {"sha256": CARD.normals.held_out_sha256[0]}),
        ("share-outside", {"share": 0.3}),
        ("case-least", {"case_p_value": 1 / 60}),
    ],
)
def test_each_reason_is_told(code, values):
    assert codes(**values) == [code]


def test_without_an_interval_no_share_is_outside():
    assert codes(CARD, share=0.9, case_p_value=None) == []


def test_the_words_are_measured_facts():
    (caution,) = find_cautions(
        SEVERAL, verdict=UNLIKE, rate=0.01, share=0.01, case_p_value=None, sha256=""
    )
    assert "by its mean tokens it lies 3.2 times as far" in caution.text
    assert "p = 0.01, 12 normal scans, rough" in caution.text


@pytest.fixture(scope="module")
def turned(site, tmp_path_factory):
    """Detect in a scan of the training that is turned by 90° and inverted, and in itself."""
    folder = tmp_path_factory.mktemp("cautions")
    head = read_volume_file(site.normals[0])
    voxels = np.rot90(head.voxels.max() - head.voxels, axes=(1, 2))
    write_nifti(folder / "turned.nii.gz", Volume(voxels.copy(), head.ras_from_voxel))
    found = {}
    for name, path in {"turned": folder / "turned.nii.gz", "known": site.normals[0]}.items():
        result = run(
            "detect", path, "--model", site.model, "--out", folder / name, "--device", "cpu"
        )
        assert result.exit_code == 0, (result.stderr, result.exception)
        found[name] = result, json.loads((folder / name / "run.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("turned", "scan-unlike", "does not look like the model's normal scans"),
        ("known", "scan-known", "this scan, so its NLL is too low"),
    ],
)
def test_detection_tells_it_on_the_terminal_and_in_the_manifest(turned, name, code, words):
    result, manifest = turned[name]
    assert code in [one["code"] for one in manifest["cautions"]]
    assert f"CAUTION: {manifest['cautions'][0]['text']}" in result.stdout
    assert words in result.stderr
    assert manifest["suitability"]["normals"] == 4
    if name == "known":
        assert "scan-unlike" not in [one["code"] for one in manifest["cautions"]]
