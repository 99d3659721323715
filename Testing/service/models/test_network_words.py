"""The words for a network name every switch that is on, and no other."""

import dataclasses

import pytest
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, Variance
from SpatialARAnomalyLib.service.models.wording import (
    likelihood_text,
    network_text,
    preset_text,
)


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize("variance", [None, *Variance])
def test_a_preset_is_known_whatever_its_variance(preset, variance):
    spec = AutoregressiveSpec.from_preset(preset, variance)
    assert preset_text(spec).split()[0] == preset
    other = dataclasses.replace(spec, hidden_channels=spec.hidden_channels + 1)
    assert preset_text(other) == "no preset"


def test_the_papers_networks_are_called_so():
    spec = AutoregressiveSpec.from_preset(Preset.DILATED)
    assert network_text(spec) == (
        "dilated (the paper's): 5 layers of dilation 4 4 4 4 4, 256 channels"
    )
    assert likelihood_text(spec) == "one variance for all channels"
    assert "paper" not in network_text(AutoregressiveSpec.from_preset(Preset.FAST))


def test_every_switch_has_its_words():
    switches = [
        ({"variance": Variance.CHANNEL}, "a variance for each channel"),
        ({"variance": Variance.FULL}, "full covariance of the channels"),
        ({"whitened": True}, "whitened tokens"),
        ({"position": True}, "position of the token in the body as input"),
        ({"position_variance": True}, "more variance where normal scans differ more"),
        ({"position": True, "directions": 2}, "the mean of 2 raster directions"),
    ]
    for switch, words in switches:
        assert words in likelihood_text(AutoregressiveSpec(**switch)).split("; ")
    assert len(likelihood_text(AutoregressiveSpec(position=True)).split("; ")) == 2
