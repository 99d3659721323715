"""The words for a network name its preset, branches and size."""

import dataclasses

import pytest
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset
from SpatialARAnomalyLib.service.models.wording import network_text, preset_text


@pytest.mark.parametrize("preset", list(Preset))
def test_a_preset_is_known(preset):
    spec = AutoregressiveSpec.from_preset(preset)
    assert preset_text(spec).split()[0] == preset
    other = dataclasses.replace(spec, hidden_channels=spec.hidden_channels + 1)
    assert preset_text(other) == preset
    for change in ({"layers": spec.layers + 1}, {"shrinkage": 0.5}):
        assert preset_text(dataclasses.replace(spec, **change)) == "no preset"


def test_networks_are_told_with_layers_and_dilations():
    texts = [network_text(AutoregressiveSpec.from_preset(preset)) for preset in Preset]
    assert texts == [
        "composite: 5 layers of 128 channels, dilation 2 and 4, shrinkage 0.97",
        "standard (the paper's): 5 layers of 256 channels, dilation 1, shrinkage 1",
        "dilated (the paper's): 5 layers of 256 channels, dilation 4, shrinkage 1",
    ]
