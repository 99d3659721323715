"""Batches that fit the device, and what happens when they do not."""

import threading

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.cards.encoder_card import EncoderCard
from SpatialARAnomalyLib.engine.device import is_out_of_memory
from SpatialARAnomalyLib.engine.encoder import batching
from SpatialARAnomalyLib.engine.encoder.batching import (
    embed_batches,
    images_at_once,
    prefetch,
)
from SpatialARAnomalyLib.engine.errors import Cancelled
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import (
    embed_slices,
    score_slices,
    slice_nll,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    Plane,
    Preset,
    SliceSpec,
)
from SpatialARAnomalyLib.service.demo.phantom import normal_head


class SmallDevice:
    """An encoder whose device holds so many images; tokens are means of patches."""

    def __init__(self, holds=10**9, channels=3, architecture="DINOv3ViT", device="cpu", patch=16):
        self.holds = holds
        self.device = torch.device(device)
        self.asked: list[int] = []
        self.card = EncoderCard(
            name="x",
            architecture=architecture,
            channels=channels,
            patch_px=patch,
            parameters=1,
            weights_sha256="0",
            notice="",
        )

    def embed(self, images):
        self.asked.append(len(images))
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        means = torch.nn.functional.avg_pool2d(images, self.card.patch_px)
        scale = torch.arange(1.0, 1.0 + self.card.channels)[:, None, None]
        return means * scale


class Heard(SilentReporter):
    def __init__(self):
        self.notices = []

    def notice(self, code, text):
        self.notices.append((code, text))


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("holds", [1, 2, 3, 5, 7, 100])
def test_too_many_images_are_halved_until_they_fit(holds):
    device, heard = SmallDevice(holds), Heard()
    tokens, at_once = embed_batches(images(11), device, heard, 8)
    assert torch.equal(tokens, SmallDevice().embed(images(11)))
    assert at_once == next(size for size in (8, 4, 2, 1) if size <= holds)
    halvings = {8: 0, 4: 1, 2: 2, 1: 3}[at_once]
    assert [code for code, _ in heard.notices] == ["batch-halved"] * halvings
    if halvings:
        assert f"{at_once} image" in heard.notices[-1][1]
    # What failed once is not tried again.
    assert sum(size > holds for size in device.asked) == halvings


def test_halving_begins_with_what_was_really_asked():
    device, heard = SmallDevice(holds=2), Heard()
    tokens, at_once = embed_batches(images(3), device, heard, 64)
    assert (len(tokens), at_once, device.asked) == (3, 1, [3, 1, 1, 1])


def test_one_image_that_does_not_fit_and_other_errors_are_raised():
    with pytest.raises(torch.OutOfMemoryError):
        embed_batches(images(4), SmallDevice(holds=0), Heard(), 2)

    class Broken(SmallDevice):
        def embed(self, images):
            raise RuntimeError("shapes do not fit")

    heard = Heard()
    with pytest.raises(RuntimeError, match="shapes"):
        embed_batches(images(4), Broken(), heard, 2)
    assert heard.notices == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, told):
    assert is_out_of_memory(error) is told


def test_cancelling_is_asked_for_between_batches():
    class Asked(Heard):
        left = 2

        def check_cancelled(self):
            if self.left == 0:
                raise Cancelled
            self.left -= 1

    device = SmallDevice()
    with pytest.raises(Cancelled):
        embed_batches(images(9), device, Asked(), 3)
    assert device.asked == [3, 3]


@pytest.mark.parametrize(
    ("channels", "size_px", "expected"),
    [(384, 448, 2), (1024, 448, 1), (384, 896, 1), (384, 224, 8), (128, 448, 6)],
)
def test_a_cpu_s_batch_fits_its_cache(channels, size_px, expected):
    assert images_at_once(SmallDevice(channels=channels), size_px) == expected


def test_a_gpu_s_batch_grows_with_its_free_memory(monkeypatch):
    sizes = []
    for free in (0, 10**8, 2 * 10**9, 4 * 10**9, 10**12):
        monkeypatch.setattr(batching, "free_bytes", lambda device, free=free: free)
        sizes.append(images_at_once(SmallDevice(channels=1024, device="meta"), 448))
    assert sizes[0] == 1
    assert sizes[-1] == batching.MOST_IMAGES
    assert sizes == sorted(sizes)
    assert 2 * sizes[2] <= sizes[3] <= 2 * sizes[2] + 1
    # Of 4 GB half is used: its layers of all images fit into that.
    assert sizes[3] * 4 * 4 * 4 * 1024 * 28**2 <= 2 * 10**9


def head_stack(size_px: int = 64, fov_mm: float = 240.0) -> SliceStack:
    head = normal_head(0, shape_kji=(11, 40, 40), spacing_mm=(5.0, 5.0, 12.0))
    return SliceStack(
        PlaneVolume(head, Plane.AXIAL, Modality.MR),
        SliceSpec(fov_mm=fov_mm, size_px=size_px),
        IntensitySpec.for_modality(Modality.MR),
        16,
    )


@pytest.mark.parametrize("fov_mm", [240.0, 120.0])  # one tile, and several
@pytest.mark.parametrize("device", ["cpu", "meta"])  # on "meta" images are prefetched
def test_slices_are_those_of_the_stack_however_they_are_cut(fov_mm, device):
    stack = head_stack(fov_mm=fov_mm)
    assert (stack.tiles > 1) is (fov_mm == 120.0)
    encoder = SmallDevice(holds=5, device=device)
    found = list(embed_slices(stack, encoder, Heard()))
    assert len(found) == len(stack.indices)
    for index, tokens in zip(stack.indices, found, strict=True):
        alone = SmallDevice().embed(torch.from_numpy(stack.images(index)))
        torch.testing.assert_close(tokens, alone)


@pytest.mark.parametrize("preset", [Preset.STANDARD, Preset.COMPOSITE])
@pytest.mark.parametrize("fov_mm", [240.0, 120.0])
def test_slices_scored_together_are_scored_as_alone(preset, fov_mm):
    stack = head_stack(fov_mm=fov_mm)
    tokens = list(embed_slices(stack, SmallDevice(channels=6), Heard()))
    torch.manual_seed(0)
    model = AutoregressiveModel(AutoregressiveSpec.from_preset(preset), 6).eval()
    together = list(score_slices(stack, tokens, model))
    of_arrays = list(score_slices(stack, [one.numpy() for one in tokens], model))
    assert len(together) == len(of_arrays) == len(stack.indices)
    for one, nll, other in zip(tokens, together, of_arrays, strict=True):
        np.testing.assert_allclose(nll, slice_nll(one, model), atol=1e-5)
        np.testing.assert_array_equal(nll, other)


# Prefetched


def test_prefetching_keeps_the_order_and_is_at_most_so_far_ahead():
    made, used = [], []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    for number in prefetch(items(), depth=2):
        used.append(number)
        # Two wait, and one more may be made.
        assert len(made) <= len(used) + 3
    assert used == list(range(20))


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise ValueError("no third one")

    found = prefetch(items())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="no third one"):
        next(found)


def test_the_thread_ends_with_its_user():
    def items():
        while True:
            yield 0

    threads = threading.active_count()
    found = prefetch(items())
    next(found)
    assert threading.active_count() == threads + 1
    found.close()
    assert threading.active_count() == threads
