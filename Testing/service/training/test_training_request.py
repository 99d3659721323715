"""One spec of a training: on the command line, in JSON, and as a fingerprint."""

import json
from dataclasses import fields, replace

import pytest
import typer.main
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.specs import (
    Modality,
    Orientation,
    Plane,
    Precision,
    Preset,
    Region,
)
from SpatialARAnomalyLib.service.cli.main import app
from SpatialARAnomalyLib.service.cli.train import NORMALS_OPTIONS, TRAIN_OPTIONS
from SpatialARAnomalyLib.service.training.request import TrainSpec

SPEC = TrainSpec().resolve(Modality.MR, 240.0)
SCANS = ("a" * 64, "b" * 64)

DECISIVE = {
    "modality": Modality.CT, "plane": Plane.CORONAL, "region": Region.HEAD_INTERIOR,
    "fov_mm": 250.0, "size_px": 224,
    "window_hu": (0.0, 80.0), "precision": Precision.BFLOAT16, "preset": Preset.STANDARD,
    "hidden_channels": 8, "epochs": 7, "batch_size": 8,
    "learning_rate": 0.5, "weight_decay": 0.5, "noise_probability": 0.5, "noise_scale": 0.5,
    "held_out_share": 0.5, "seed": 7,
}  # fmt: skip
INDIFFERENT = {
    "name": "brain", "encoder": "elsewhere/it", "device": Device.CPU, "allow_download": True,
    "overwrite": True, "restart": True, "skip_unusable": True,
    "orientation": Orientation.SFORM, "allow_unstated_orientation": True,
}  # fmt: skip


def fingerprint(spec, scans=SCANS, encoder="c" * 64):
    return spec.fingerprint(scans, encoder=encoder)


def test_every_field_is_decisive_or_indifferent():
    assert DECISIVE.keys() | INDIFFERENT.keys() == {field.name for field in fields(TrainSpec)}


def test_fingerprints_differ_exactly_where_the_models_would():
    others = [replace(SPEC, **{name: value}) for name, value in DECISIVE.items()]
    prints = [fingerprint(one) for one in (SPEC, *others)]
    prints += [fingerprint(SPEC, SCANS[:1]), fingerprint(SPEC, encoder="d" * 64)]
    assert len(set(prints)) == len(DECISIVE) + 3
    for name, value in INDIFFERENT.items():
        assert fingerprint(replace(SPEC, **{name: value})) == prints[0]
    assert fingerprint(SPEC, SCANS[::-1]) == prints[0]
    # As read from the record of a training.
    assert fingerprint(TrainSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))) == prints[0]


def test_resolving_twice_changes_nothing():
    asked = TrainSpec(preset=Preset.DILATED, epochs=3)
    resolved = asked.resolve(Modality.CT, 300.0)
    assert resolved == resolved.resolve(Modality.CT, 300.0)
    assert (resolved.autoregressive, resolved.training) == (asked.autoregressive, asked.training)
    assert resolved.autoregressive.dilations == (4,)
    assert resolved.training.epochs == 3


@pytest.mark.parametrize(
    "values",
    [
        {"fov_mm": 0.0}, {"fov_mm": -5.0}, {"size_px": 0}, {"epochs": 0}, {"batch_size": 0},
        {"window_hu": (80.0, 0.0)}, {"window_hu": [1.0]}, {"hidden_channels": 0}, {"seed": -1},
        {"plane": "oblique"}, {"depth": 3}, {"epochs": 1.5},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values):
    with pytest.raises(SpecError):
        TrainSpec.from_dict(values)


@pytest.mark.parametrize(
    ("name", "names"), [("train", TRAIN_OPTIONS), ("normals", NORMALS_OPTIONS)]
)
def test_options_are_the_fields_of_the_spec(name, names):
    """The parser's own view: names, defaults and help texts."""
    command = typer.main.get_command(app).commands[name]
    options = {one.name: one for one in command.params if one.name in names}
    assert options.keys() == set(names)
    for field, option in options.items():
        assert option.opts == [f"--{field.replace('_', '-')}"]
        assert option.default == getattr(TrainSpec, field)
        assert len(option.help) > 10
    assert "Passes over the slices" in options["epochs"].help
