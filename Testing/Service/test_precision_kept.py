"""What a model's encoder multiplied in when it was trained, it multiplies in ever after."""

import json

import pytest
import torch
from Service.small_site import TRAIN_OPTIONS, run
from SpatialARAnomalyLib.engine import precision as precision_module
from SpatialARAnomalyLib.engine.model_store import ModelCard, read_card
from SpatialARAnomalyLib.engine.specs import Precision
from SpatialARAnomalyLib.service.training_request import TrainRequest, TrainSpec
from SpatialARAnomalyLib.service.warm import Warm


@pytest.fixture(scope="module")
def rounded(site, tmp_path_factory):
    """A model trained in bfloat16."""
    model = tmp_path_factory.mktemp("rounded") / "model"
    result = run("train", *site.normals, "--out", model, *TRAIN_OPTIONS, "--precision", "bfloat16")
    assert result.exit_code == 0, result.stderr
    return model


def test_it_is_on_the_card_and_in_the_manifest(site, rounded, tmp_path, monkeypatch):
    monkeypatch.setattr(precision_module, "has_bfloat16_units", lambda device: False)
    assert read_card(rounded).encoder.precision is Precision.BFLOAT16
    assert read_card(site.model).encoder.precision is Precision.FLOAT32
    assert "bfloat16" in run("models", "show", rounded).stdout
    thresholds = {}
    for model, precision in ((rounded, "bfloat16"), (site.model, "float32")):
        out = tmp_path / precision
        options = ("--model", model, "--out", out, "--device", "cpu", "--json")
        result = run("detect", site.normals[0], *options)
        assert result.exit_code == 0, result.stderr
        notices = [json.loads(line).get("code") for line in result.stdout.splitlines()]
        assert ("precision-imitated" in notices) is (precision == "bfloat16")
        manifest = json.loads((out / "run.json").read_text())
        assert manifest["model"]["encoder_precision"] == precision
        thresholds[precision] = manifest["threshold_nll"]
    assert thresholds["bfloat16"] != thresholds["float32"]
    assert abs(thresholds["bfloat16"] - thresholds["float32"]) < 0.2


def test_a_warm_encoder_of_another_precision_is_not_taken(site, rounded):
    kept, cpu = Warm(), torch.device("cpu")
    exact, _ = kept.encoder(read_card(site.model), None, cpu, False)
    other, was_warm = kept.encoder(read_card(rounded), None, cpu, False)
    assert (was_warm, other.card.precision) == (False, Precision.BFLOAT16)
    assert exact.card.weights_sha256 == other.card.weights_sha256
    assert kept.encoder(read_card(rounded), None, cpu, False) == (other, True)


def test_models_made_before_multiply_in_float32(site):
    content = read_card(site.model).to_dict()
    del content["encoder"]["precision"]
    assert ModelCard.from_dict(content).encoder.precision is Precision.FLOAT32


def test_a_training_asks_for_what_it_was_told(tmp_path):
    for asked in (None, Precision.FLOAT32, Precision.BFLOAT16):
        request = TrainSpec(precision=asked).request((), tmp_path)
        assert request.precision is asked
        assert TrainSpec.of(request) == TrainSpec(precision=asked, **variance_of(request))


def variance_of(request: TrainRequest) -> dict[str, object]:
    network = request.autoregressive
    return {"variance": network.variance, "hidden_channels": network.hidden_channels}
