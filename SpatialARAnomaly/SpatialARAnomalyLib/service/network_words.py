"""What network a model has, and how it judges, in words."""

from ..engine.specs import AutoregressiveSpec, Preset, Variance

PAPERS = (Preset.STANDARD, Preset.DILATED)
"""The presets that are Erdil et al.'s (arXiv 2603.02974)."""

_VARIANCE_WORDS = {
    Variance.FIXED: "one variance for all channels",
    Variance.CHANNEL: "a variance for each channel",
    Variance.FULL: "full covariance of the channels",
}


def preset_of(spec: AutoregressiveSpec) -> Preset | None:
    """The preset that a network is of, whatever its variance; None of a network of its own."""
    for preset in Preset:
        if AutoregressiveSpec.from_preset(preset, spec.variance) == spec:
            return preset
    return None


def preset_text(spec: AutoregressiveSpec) -> str:
    """`balanced`, `standard (the paper's)`, or that it is none of the presets."""
    preset = preset_of(spec)
    if preset is None:
        return "none of the presets"
    return f"{preset} (the paper's)" if preset in PAPERS else preset.value


def network_text(spec: AutoregressiveSpec) -> str:
    """Its preset and layers."""
    dilations = " ".join(map(str, spec.dilations))
    return (
        f"{preset_text(spec)}: {len(spec.dilations)} layers of dilation {dilations}, "
        f"{spec.hidden_channels} channels"
    )


def likelihood_text(spec: AutoregressiveSpec) -> str:
    """Every switch of how it judges tokens, with those that are off left out."""
    directions = ""
    if spec.directions > 1:
        directions = f"the mean of {spec.directions} raster directions"
    words = (
        _VARIANCE_WORDS[spec.variance],
        "whitened tokens" if spec.whitened else "",
        "told where in the body a token lies" if spec.position else "",
        "more variance where normal scans differ more" if spec.position_variance else "",
        directions,
    )
    return "; ".join(word for word in words if word)
