"""The precision that a model's normal scans were embedded in is recorded and used ever after."""

import dataclasses
import json

import numpy as np
import pytest
import SimpleITK as sitk
from service.small_site import TRAIN_OPTIONS, run
from SpatialARAnomalyLib.engine.model.model_file import (
    load_model,
    read_card,
    save_model,
)
from SpatialARAnomalyLib.engine.specs import Precision
from SpatialARAnomalyLib.service.detection.model_cache import ModelCache


@pytest.fixture(scope="module")
def rounded(site, tmp_path_factory):
    """The site's model as if its normal scans had been embedded in bfloat16."""
    path = tmp_path_factory.mktemp("rounded") / "model"
    card, network = load_model(site.model)
    encoder = dataclasses.replace(card.encoder, precision=Precision.BFLOAT16)
    save_model(path, dataclasses.replace(card, encoder=encoder), network)
    return path


def test_a_training_records_it(site, tmp_path):
    options = (*TRAIN_OPTIONS, "--precision", "bfloat16")
    result = run("train", *site.normals, "--out", tmp_path / "model", *options)
    assert result.exit_code == 0, result.stderr
    assert read_card(tmp_path / "model").encoder.precision is Precision.BFLOAT16
    assert "bfloat16" in run("models", "show", tmp_path / "model").stdout


def test_a_cpu_trains_in_float32_unless_asked(site):
    assert read_card(site.model).encoder.precision is Precision.FLOAT32


def test_a_detection_uses_it(site, rounded, tmp_path):
    volumes = []
    for model, precision in ((site.model, "float32"), (rounded, "bfloat16")):
        out = tmp_path / precision
        options = ("--model", model, "--out", out, "--device", "cpu", "--json")
        result = run("detect", site.normals[0], *options)
        assert result.exit_code == 0, result.stderr
        assert json.loads((out / "run.json").read_text())["model"]["encoder_precision"] == precision
        file = json.loads(result.stdout.splitlines()[-1])["files"]["nll"]
        volumes.append(sitk.GetArrayFromImage(sitk.ReadImage(file)))
    exact, coarse = volumes
    assert not np.array_equal(exact, coarse)
    assert np.corrcoef(exact.ravel(), coarse.ravel())[0, 1] > 0.98


def test_a_cached_encoder_of_another_precision_is_not_used(site, rounded):
    cache = ModelCache()
    exact = cache.load(site.model, "cpu").encoder
    other = cache.load(rounded, "cpu").encoder
    assert (cache.reused["encoder"], other.card.precision) == (False, Precision.BFLOAT16)
    assert exact.card.weights_sha256 == other.card.weights_sha256
    assert cache.load(rounded, "cpu").encoder is other
