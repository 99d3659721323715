"""bfloat16 where there are units for it, the same rounding where there are none."""

import numpy as np
import pytest
import torch
from Engine import dinov3_examples as examples
from scipy.stats import spearmanr
from SpatialARAnomalyLib.engine import precision as precision_module
from SpatialARAnomalyLib.engine.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.detection import slice_nll
from SpatialARAnomalyLib.engine.encoder import DINOv3Encoder, load_encoder
from SpatialARAnomalyLib.engine.phantom import normal_head
from SpatialARAnomalyLib.engine.plane_volume import PlaneVolume
from SpatialARAnomalyLib.engine.precision import (
    best_precision,
    has_bfloat16_units,
    multiplying,
)
from SpatialARAnomalyLib.engine.slicing import SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Precision,
    Preset,
    SliceSpec,
)
from torch.nn import functional as F

CPU = torch.device("cpu")


@pytest.fixture
def without_units(monkeypatch):
    monkeypatch.setattr(precision_module, "has_bfloat16_units", lambda device: False)


def with_units(monkeypatch):
    """Autocast itself, however slow it may be on this machine."""
    monkeypatch.setattr(precision_module, "has_bfloat16_units", lambda device: True)


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_the_imitation_is_as_autocast(name, tmp_path, monkeypatch):
    """What is left between them is small against what both are away from float32."""
    folder = examples.save_transformers(getattr(examples, name)(), tmp_path / name)
    gray = examples.images(96, 96)
    exact = load_encoder(str(folder)).embed(gray)
    rounded = load_encoder(str(folder), precision=Precision.BFLOAT16)
    assert rounded.card.precision is Precision.BFLOAT16
    monkeypatch.setattr(precision_module, "has_bfloat16_units", lambda device: False)
    imitated = rounded.embed(gray)
    with_units(monkeypatch)
    autocast = rounded.embed(gray)
    assert imitated.dtype == autocast.dtype == torch.float32
    away = (autocast - exact).square().mean().sqrt()
    assert away > 1e-4
    assert (imitated - autocast).square().mean().sqrt() < away
    assert abs((imitated - exact).square().mean().sqrt() / away - 1) < 0.3


def test_a_product_of_rounded_factors(without_units):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=generator) for size in [(4, 64), (8, 64), (8,)])
    with multiplying(Precision.BFLOAT16, CPU):
        found = F.linear(x, weight, bias=bias)
        others = x + 1.0
    half = [one.bfloat16().double() for one in (x, weight, bias)]
    expected = (half[0] @ half[1].T + half[2]).to(torch.bfloat16).float()
    # Where the sum lies between two numbers of 8 bits, float32 may take the other one.
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0)
    assert (found == expected).float().mean() > 0.9
    assert torch.equal(others, x + 1.0)
    assert not torch.equal(F.linear(x, weight, bias), found)


def test_ranks_of_the_nll_are_kept(without_units):
    """Tokens of heads by the demonstration encoder, scored by networks of all kinds."""
    head = normal_head(0, shape_kji=(8, 96, 96), spacing_mm=(2.4, 2.4, 15.0))
    stack = SliceStack(
        PlaneVolume(head, Plane.AXIAL, Modality.MR),
        SliceSpec(fov_mm=240.0, size_px=224),
        IntensitySpec.for_modality(Modality.MR),
        16,
    )
    images = torch.from_numpy(np.concatenate([stack.images(index) for index in stack.indices]))
    tokens = [
        load_encoder("demonstration", precision=precision).embed(images)
        for precision in (Precision.FLOAT32, Precision.BFLOAT16)
    ]
    for preset in (Preset.STANDARD, Preset.FAST):
        torch.manual_seed(0)
        model = AutoregressiveModel(AutoregressiveSpec.from_preset(preset), 128).eval()
        exact, rounded = (slice_nll(one, model).ravel() for one in tokens)
        assert 0.999 <= spearmanr(exact, rounded).statistic < 1.0


@pytest.mark.parametrize(("names", "found"), [((), False), (("_is_amx_tile_supported",), True)])
def test_units_of_a_cpu(monkeypatch, names, found):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in names, raising=False)
    assert has_bfloat16_units(CPU) is found
    assert best_precision(CPU) is (Precision.BFLOAT16 if found else Precision.FLOAT32)


@pytest.mark.parametrize(("capability", "found"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_units_of_a_gpu(monkeypatch, capability, found):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16_units(torch.device("cuda:1")) is found
    assert not has_bfloat16_units(torch.device("mps"))


def test_autocast_is_asked_for_where_there_are_units(monkeypatch):
    with_units(monkeypatch)
    with multiplying(Precision.BFLOAT16, CPU):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
    with multiplying(Precision.FLOAT32, CPU):
        assert not torch.is_autocast_enabled("cpu")
    assert isinstance(load_encoder("demonstration"), DINOv3Encoder)
