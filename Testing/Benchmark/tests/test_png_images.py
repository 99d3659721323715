"""The pixels of PNG equal PIL's, for the encoder and for the measures."""

import numpy as np
import pytest
import torch
from Benchmark.real.layout import ImageFile, Protocol
from Benchmark.real.png import (
    PngPatient,
    label_on_grid,
    read_gray,
    read_label,
    resize_for_encoder,
    upsample_scores,
)
from PIL import Image
from SpatialARAnomalyLib.engine.errors import InputError

pytestmark = pytest.mark.slow

PIXELS = np.random.RandomState(0).randint(0, 256, (30, 50), dtype=np.uint8)


def saved(path, pixels, mode=None):
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_gray_is_read_from_every_kind_of_png(tmp_path, mode):
    gray, colored = read_gray(saved(tmp_path / "a_1.png", PIXELS, mode))
    np.testing.assert_allclose(gray, PIXELS / 255, atol=1e-6)
    assert not colored


def test_sixteen_bits_are_read_too(tmp_path):
    gray, _ = read_gray(saved(tmp_path / "a_1.png", PIXELS.astype(np.uint16) * 257))
    np.testing.assert_allclose(gray, PIXELS / 255, atol=1e-4)


def test_of_color_the_luminance_is_taken(tmp_path):
    color = np.random.RandomState(1).randint(0, 256, (7, 9, 3), dtype=np.uint8)
    path = saved(tmp_path / "a_1.png", color)
    gray, colored = read_gray(path)
    assert colored
    expected = np.asarray(Image.open(path).convert("L")) / 255
    np.testing.assert_allclose(gray, expected, atol=1.5 / 255)


def test_a_file_that_is_not_a_png_is_refused(tmp_path):
    path = tmp_path / "a_1.png"
    path.write_text("no image")
    with pytest.raises(InputError, match=r"'a_1\.png' cannot be read as a PNG image"):
        read_gray(path)


@pytest.mark.parametrize("side", [16, 64, 448])
def test_images_are_resized_as_pil_does(side):
    expected = Image.fromarray(PIXELS).resize((side, side), Image.Resampling.BILINEAR)
    found = resize_for_encoder(PIXELS.astype(np.float32) / 255, side)
    assert found.shape == (1, side, side)
    # PIL rounds after each of two passes.
    off = np.abs(found[0] * 255 - np.asarray(expected, dtype=float))
    assert off.max() <= 1.001
    assert off.mean() < 0.3


def test_scores_lie_where_their_tokens_do():
    """Token (r, c) is centered at pixel ((r + ½)·p − ½, (c + ½)·p − ½)."""
    row, column = np.mgrid[:4, :5]
    score = torch.from_numpy((2.0 * row + column).astype(np.float32))
    on_pixels = upsample_scores(score, (4 * 16, 5 * 16))
    pixel_row, pixel_column = np.mgrid[8:56, 8:72]
    expected = 2 * ((pixel_row + 0.5) / 16 - 0.5) + ((pixel_column + 0.5) / 16 - 0.5)
    np.testing.assert_allclose(on_pixels[8:56, 8:72], expected, atol=1e-4)


def labeled(tmp_path, label) -> ImageFile:
    return ImageFile(
        saved(tmp_path / "a_1.png", PIXELS), "a", saved(tmp_path / "a_1_label.png", label)
    )


LABEL = (np.random.RandomState(2).rand(30, 50) < 0.3).astype(np.uint8)


def test_nonzero_pixels_are_the_label(tmp_path):
    for factor in (1, 2, 255):
        path = saved(tmp_path / f"{factor}.png", LABEL * np.uint8(factor))
        np.testing.assert_array_equal(read_label(path), LABEL > 0)
    colored = saved(tmp_path / "rgb.png", np.stack([LABEL * 255] * 3, axis=-1))
    np.testing.assert_array_equal(read_label(colored), LABEL > 0)


def test_native_labels_are_untouched(tmp_path):
    found = label_on_grid(labeled(tmp_path, LABEL), Protocol.NATIVE, 448)
    np.testing.assert_array_equal(found, LABEL > 0)


def test_the_papers_labels_are_resized_twice(tmp_path):
    found = label_on_grid(labeled(tmp_path, LABEL), Protocol.PAPER, 448)
    large = Image.fromarray(LABEL).resize((448, 448), Image.Resampling.NEAREST)
    rows = np.arange(240) * 448 // 240
    np.testing.assert_array_equal(found, np.asarray(large)[np.ix_(rows, rows)] > 0)


def test_a_normal_image_has_no_anomaly_on_the_protocols_pixels(tmp_path):
    normal = ImageFile(saved(tmp_path / "a_1.png", PIXELS), "a", None)
    paper = label_on_grid(normal, Protocol.PAPER, 448)
    native = label_on_grid(normal, Protocol.NATIVE, 448)
    assert (paper.shape, native.shape) == ((240, 240), (30, 50))
    assert not paper.any()
    assert not native.any()


def test_native_labels_must_have_their_images_size(tmp_path):
    with pytest.raises(InputError, match=r"'a_1_label\.png' has 15 × 50 pixels, its image 30 × 50"):
        label_on_grid(labeled(tmp_path, LABEL[:15]), Protocol.NATIVE, 448)


def test_scores_body_and_lesion_lie_on_the_same_pixels(tmp_path):
    """A bright head in air, with a lesion; one slice of another size."""
    files = []
    for number, shape in enumerate([(60, 80), (60, 80), (48, 48)]):
        row, column = np.mgrid[: shape[0], : shape[1]]
        head = np.hypot(row - shape[0] / 2, column - shape[1] / 2) < 0.4 * shape[0]
        lesion = np.hypot(row - shape[0] / 2, column - shape[1] / 2) < 6
        pixels = (90 * head + 120 * lesion).astype(np.uint8)
        label = saved(tmp_path / f"label_{number}.png", lesion.astype(np.uint8))
        files.append(ImageFile(saved(tmp_path / f"a_{number}.png", pixels), "a", label))
    patient = PngPatient("a", files, 64, 16, Protocol.NATIVE)
    assert np.concatenate(list(patient.images())).shape == (3, 1, 64, 64)
    assert patient.inside().shape == (3, 4, 4)
    for file, gray in zip(files, patient.compared(None), strict=True):
        np.testing.assert_allclose(gray.scores, read_gray(file.path)[0], atol=1e-6)
        np.testing.assert_array_equal(gray.lesion, gray.scores > 0.5)
        head = gray.scores > 0.2
        assert not (head & ~gray.body).any()
        assert gray.body.sum() < 2.2 * head.sum()
    tokens = np.zeros((3, 4, 4), np.float32)
    tokens[:, 1:3, 1:3] = 1
    for one in patient.compared(tokens):
        assert one.scores.shape == one.body.shape
        assert one.scores[one.lesion].min() > one.scores[~one.body].mean()
    (paper, *_) = PngPatient("a", files, 64, 16, Protocol.PAPER).compared(tokens)
    assert paper.scores.shape == paper.body.shape == paper.lesion.shape == (240, 240)
