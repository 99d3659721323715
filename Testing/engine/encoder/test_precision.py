"""float32 on every CPU, in full; bfloat16 autocast where the model records it."""

import numpy as np
import pytest
import torch
from engine import dinov3_examples as examples
from scipy.stats import spearmanr
from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.encoder.precision import (
    best_precision,
    computing_in,
)
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.scoring.scoring import slice_nll
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Precision,
    Preset,
    SliceSpec,
)
from SpatialARAnomalyLib.service.demo.phantom import normal_head

CPU = torch.device("cpu")


@pytest.mark.parametrize("units", [False, True])
def test_a_cpu_computes_in_float32_whatever_its_units(monkeypatch, units):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: units, raising=False)
    assert best_precision(CPU) is Precision.FLOAT32
    assert best_precision(torch.device("mps")) is Precision.FLOAT32


@pytest.mark.parametrize(("capability", "gains"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_computes_in_bfloat16_where_it_gains(monkeypatch, capability, gains):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    expected = Precision.BFLOAT16 if gains else Precision.FLOAT32
    assert best_precision(torch.device("cuda:1")) is expected


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_bfloat16_is_torch_s_own_autocast(name, tmp_path):
    folder = examples.save_transformers(getattr(examples, name)(), tmp_path / name)
    gray = examples.images(96, 96)
    exact = load_encoder(str(folder))
    rounded = load_encoder(str(folder), precision=Precision.BFLOAT16)
    assert rounded.card.precision is Precision.BFLOAT16
    assert rounded.card.weights_sha256 == exact.card.weights_sha256
    tokens, coarse = exact.embed(gray), rounded.embed(gray)
    assert tokens.dtype == coarse.dtype == torch.float32
    away = (coarse - tokens).square().mean().sqrt() / tokens.square().mean().sqrt()
    # bfloat16 has 8 significant bits: a product is off by 2⁻⁹ at most, a network by a few.
    assert 2**-11 < away < 2**-4


def test_products_are_rounded_inside_bfloat16_only():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=generator) for size in [(4, 64), (8, 64), (8,)])
    full = x.double() @ weight.double().T + bias.double()
    with computing_in(Precision.BFLOAT16, CPU):
        rounded = torch.nn.functional.linear(x, weight, bias)
    with computing_in(Precision.FLOAT32, CPU):
        exact = torch.nn.functional.linear(x, weight, bias)
    assert (rounded.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(exact.double(), full, rtol=1e-5, atol=1e-5)


def test_float32_is_computed_in_full_whatever_the_program_around_has_set():
    """A notebook may have lowered torch's precision; its settings are kept for it."""
    gray = examples.images(64, 64)
    encoder = load_encoder("demonstration")
    expected = encoder.embed(gray)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder.embed(gray)
            assert torch.is_autocast_enabled("cpu")
        with exact_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, expected)


def test_ranks_of_the_nll_are_kept():
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
    for preset in (Preset.STANDARD, Preset.COMPOSITE):
        torch.manual_seed(0)
        model = AutoregressiveModel(AutoregressiveSpec.from_preset(preset), 128).eval()
        exact, rounded = (slice_nll(one, model).ravel() for one in tokens)
        assert 0.999 <= spearmanr(exact, rounded).statistic < 1.0
