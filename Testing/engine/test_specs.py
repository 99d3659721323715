"""Specs are the same in JSON as in code, and refuse invalid values."""

import dataclasses
import json
import math
from typing import Any

import pytest
from engine.model_examples import CARD
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    FindingsSpec,
    IntensityMethod,
    IntensitySpec,
    Modality,
    Plane,
    Preset,
    SliceSpec,
    Spec,
    TrainingSpec,
)

SPECS = (
    CARD,
    CARD.calibration,
    CARD.encoder,
    CARD.normals,
    CARD.curve[0],
    IntensitySpec(method=IntensityMethod.PERCENTILE, low=0.1, high=99.9, headroom=1 / 3),
    IntensitySpec.for_modality(Modality.CT),
    SliceSpec(plane=Plane.SAGITTAL, fov_mm=0.1 + 0.2, size_px=224),
    AutoregressiveSpec(hidden_channels=7, layers=3, dilations=(4, 1, 2)),
    TrainingSpec(epochs=3, learning_rate=1e-5, seed=2**32 - 1),
    FindingsSpec(false_positive_rate=1e-4, min_volume_ml=0.0),
)


def with_value(spec, name, value):
    """Read the JSON of a spec back with one value changed."""
    content = spec.to_dict()
    assert name in content
    return type(spec).from_dict(json.loads(json.dumps({**content, name: value})))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_json_gives_the_same_spec_back(spec):
    text = json.dumps(spec.to_dict(), allow_nan=False)
    again = type(spec).from_dict(json.loads(text))
    assert again == spec
    assert type(again) is type(spec)
    assert json.dumps(again.to_dict()) == text


def test_nested_values_come_back_as_their_types():
    again = type(CARD).from_dict(json.loads(json.dumps(CARD.to_dict())))
    assert again.slices.plane is Plane.CORONAL
    assert again.modality is Modality.MR
    assert again.curve[1] == CARD.curve[1]
    assert type(again.curve[1]) is type(CARD.curve[1])
    assert again.autoregressive.dilations == (1, 2)
    assert again.encoder.revision is None


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_spec_does_not_change(spec):
    name = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, name, getattr(spec, name))


def test_what_is_left_out_takes_its_default():
    assert TrainingSpec.from_dict({"epochs": 3}) == TrainingSpec(epochs=3)
    assert SliceSpec.from_dict({"fov_mm": 100}).pixel_mm == 100 / 448


def test_an_unknown_key_is_an_error_that_lists_the_known_ones():
    with pytest.raises(SpecError) as caught:
        FindingsSpec.from_dict({"min_volume_ml": 1.0, "threshold": 3.0, "colour": "red"})
    assert caught.value.code == "spec-unknown-key"
    assert caught.value.message == (
        "FindingsSpec has no key colour, threshold; "
        "its keys are: false_positive_rate, min_volume_ml, refine_outlines."
    )


def test_an_unknown_key_of_a_nested_spec_names_that_spec():
    with pytest.raises(SpecError, match=r"^SliceSpec has no key fov; its keys are: plane, fov_mm"):
        with_value(CARD, "slices", {"fov_mm": 1.0, "fov": 1.0})


def test_a_missing_key_is_an_error():
    with pytest.raises(SpecError, match=r"^IntensitySpec lacks low, high\.$") as caught:
        IntensitySpec.from_dict({"method": "window"})
    assert caught.value.code == "spec-missing-key"


@pytest.mark.parametrize(
    ("spec", "name", "value", "message"),
    [
        (TrainingSpec(), "epochs", True, "TrainingSpec.epochs must be int; found True."),
        (TrainingSpec(), "epochs", 3.0, "TrainingSpec.epochs must be int; found 3.0."),
        (TrainingSpec(), "epochs", "3", "TrainingSpec.epochs must be int; found '3'."),
        (TrainingSpec(), "epochs", None, "TrainingSpec.epochs must be int; found None."),
        (TrainingSpec(), "learning_rate", "1e-3", "learning_rate must be float; found '1e-3'."),
        (TrainingSpec(), "learning_rate", True, "learning_rate must be float; found True."),
        (AutoregressiveSpec(), "dilations", 1, "dilations must be a list; found 1."),
        (AutoregressiveSpec(), "dilations", "11", "dilations must be a list; found '11'."),
        (AutoregressiveSpec(), "dilations", [1, 1.5], "dilations must be int; found 1.5."),
        (CARD, "slices", [448], "ModelCard.slices must be an object; found [448]."),
        (CARD, "name", 5, "ModelCard.name must be str; found 5."),
        (CARD.normals, "extent_mm", [1.0], "extent_mm must hold 2 values; found [1.0]."),
        (CARD.encoder, "revision", 5, "EncoderCard.revision must be str; found 5."),
    ],
)
def test_a_value_of_another_type_is_refused(spec, name, value, message):
    with pytest.raises(SpecError) as caught:
        with_value(spec, name, value)
    assert caught.value.code == "spec-type"
    assert caught.value.message.endswith(message)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_that_is_not_finite_is_refused(value):
    with pytest.raises(SpecError, match=r"TrainingSpec\.weight_decay must be finite; found"):
        with_value(TrainingSpec(), "weight_decay", value)


def test_an_unknown_word_is_refused():
    with pytest.raises(SpecError) as caught:
        with_value(CARD.slices, "plane", "oblique")
    expected = "SliceSpec.plane must be one of axial, coronal, sagittal; found 'oblique'."
    assert caught.value.message == expected


def test_a_whole_number_is_a_float_where_one_is_asked_for():
    again = with_value(TrainingSpec(), "weight_decay", 1)
    assert again.weight_decay == 1.0
    assert type(again.weight_decay) is float


@pytest.mark.parametrize(
    ("spec", "rule", "changes"),
    [
        (SPECS[5], "low must lie below high", {"low": 99.9}),
        (SPECS[5], "low must lie below high", {"high": math.nan}),
        (SPECS[5], "percentiles must lie in [0, 100]", {"high": 100.1}),
        (SPECS[5], "percentiles must lie in [0, 100]", {"low": -0.1}),
        (SPECS[5], "headroom must lie in [0, 1)", {"headroom": 1.0}),
        (SliceSpec(fov_mm=1.0), "fov_mm must be positive", {"fov_mm": 0.0}),
        (SliceSpec(fov_mm=1.0), "fov_mm must be positive", {"fov_mm": math.inf}),
        (SliceSpec(fov_mm=1.0), "size_px must be positive", {"size_px": 0}),
        (AutoregressiveSpec(), "hidden_channels must be positive", {"hidden_channels": 0}),
        (AutoregressiveSpec(), "layers must be at least 2", {"layers": 1}),
        (AutoregressiveSpec(), "dilations must be one or more positive", {"dilations": ()}),
        (AutoregressiveSpec(), "dilations must be one or more positive", {"dilations": (1, 0)}),
        (TrainingSpec(), "epochs must be at least 1", {"epochs": 0}),
        (TrainingSpec(), "batch_size must be at least 1", {"batch_size": 0}),
        (TrainingSpec(), "learning_rate must be positive", {"learning_rate": 0.0}),
        (TrainingSpec(), "learning_rate must be positive", {"learning_rate": math.inf}),
        (TrainingSpec(), "learning_rate must be positive", {"learning_rate": math.nan}),
        (TrainingSpec(), "weight_decay must not be negative", {"weight_decay": -1e-9}),
        (TrainingSpec(), "weight_decay must not be negative", {"weight_decay": math.inf}),
        (TrainingSpec(), "noise_probability must lie in [0, 1]", {"noise_probability": 1.1}),
        (TrainingSpec(), "noise_scale must not be negative", {"noise_scale": math.inf}),
        (TrainingSpec(), "held_out_share must lie in (0, 1)", {"held_out_share": 1.0}),
        (TrainingSpec(), "seed must lie in [0, 2³²)", {"seed": 2**32}),
        (TrainingSpec(), "seed must lie in [0, 2³²)", {"seed": -1}),
        (FindingsSpec(), "false_positive_rate must lie in (0, 1)", {"false_positive_rate": 0.0}),
        (FindingsSpec(), "false_positive_rate must lie in (0, 1)", {"false_positive_rate": 1.0}),
        (FindingsSpec(), "min_volume_ml must not be negative", {"min_volume_ml": math.inf}),
        (CARD.encoder, "channels must be positive", {"channels": 0}),
        (CARD.encoder, "patch_px must be positive", {"patch_px": 0}),
        (CARD, "schema must be 2", {"schema": 1}),
        (CARD, "best_epoch must be one of the curve", {"best_epoch": 3}),
        (CARD, "best_epoch must be one of the curve", {"curve": ()}),
        (CARD, "size_px must be a multiple of", {"slices": SliceSpec(fov_mm=9.0, size_px=33)}),
    ],
)
def test_a_value_out_of_range_is_refused(spec: Spec, rule, changes):
    with pytest.raises(SpecError) as caught:
        dataclasses.replace(spec, **changes)
    assert caught.value.code == "spec-value"
    message = caught.value.message
    assert message.startswith(rule)
    assert "; found " in message
    assert len(message) < 450


def test_defaults_of_a_modality():
    mr, ct = (IntensitySpec.for_modality(modality) for modality in (Modality.MR, Modality.CT))
    assert (mr.method, mr.low, mr.high) == (IntensityMethod.PERCENTILE, 1.0, 99.0)
    assert (ct.method, ct.low, ct.high) == (IntensityMethod.WINDOW, -160.0, 240.0)
    bone = IntensitySpec.for_modality(Modality.CT, (-500.0, 1300.0))
    assert (bone.low, bone.high) == (-500.0, 1300.0)


def test_two_presets_are_the_papers_networks():
    assert AutoregressiveSpec.from_preset(Preset.STANDARD) == AutoregressiveSpec()
    paper = {"hidden_channels": 256, "layers": 5, "shrinkage": 1.0}
    assert AutoregressiveSpec().to_dict() == {**paper, "dilations": [1]}
    assert AutoregressiveSpec.from_preset(Preset.DILATED).to_dict() == {**paper, "dilations": [4]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSpec(Spec):
    rows: tuple[dict[str, Any], ...] = ()


def test_rows_of_any_json_come_back_as_they_were():
    rows = [{"a": 1, "b": [None, "x"]}, {}]
    spec = TableSpec.from_dict({"rows": rows})
    assert spec.to_dict() == {"rows": rows}
    with pytest.raises(SpecError, match="must be an object; found 5") as caught:
        TableSpec.from_dict({"rows": [5]})
    assert caught.value.code == "spec-type"
