"""The Gaussian per position against NumPy's covariance and SciPy's distance."""

import numpy as np
import pytest
import torch
from Benchmark.peers.position_gaussian import (
    RIDGE,
    TOKENS_PER_CHANNEL,
    PositionGaussian,
)
from scipy.spatial.distance import mahalanobis
from SpatialARAnomalyLib.engine.errors import InputError

pytestmark = pytest.mark.slow

CHANNELS, HEIGHT, WIDTH = 5, 2, 3


def tokens(seed: int, images: int) -> np.ndarray:
    """Draw correlated channels around a mean for each position."""
    random = np.random.RandomState(seed)
    mixing = np.random.RandomState(0).normal(size=(CHANNELS, CHANNELS))
    means = np.random.RandomState(1).normal(0, 3, (CHANNELS, HEIGHT, WIDTH))
    noise = random.normal(size=(images, CHANNELS, HEIGHT, WIDTH))
    return (means + np.einsum("ij,bjhw->bihw", mixing, noise)).astype(np.float32)


NORMALS = [tokens(2, 30), tokens(3, 40)]
QUERIES = tokens(4, 3)


def by_hand(points: np.ndarray, query: np.ndarray) -> float:
    """Compute the distance of points [n, d] by the definition."""
    covariance = np.cov(points.astype(np.float64), rowvar=False) + RIDGE * np.eye(points.shape[1])
    return mahalanobis(query, points.mean(axis=0, dtype=np.float64), np.linalg.inv(covariance))


def test_a_score_is_the_mahalanobis_distance_at_its_position():
    model = PositionGaussian.fit(NORMALS)
    assert model.channels == CHANNELS
    score = model.score(torch.from_numpy(QUERIES))
    assert score.dtype == torch.float32
    together = np.concatenate(NORMALS)
    for image, row, column in np.ndindex(score.shape):
        expected = by_hand(together[..., row, column], QUERIES[image, :, row, column])
        assert float(score[image, row, column]) == pytest.approx(expected, rel=1e-4)


def test_a_position_with_few_tokens_inside_takes_those_of_all_positions():
    inside = [np.random.RandomState(5).rand(len(one), HEIGHT, WIDTH) < 0.8 for one in NORMALS]
    for mask in inside:
        mask[:, 0, 1] = False
        mask[3:, 1, 2] = False
    score = PositionGaussian.fit(NORMALS, inside).score(torch.from_numpy(QUERIES))
    together, kept = np.concatenate(NORMALS), np.concatenate(inside)
    everywhere = np.moveaxis(together, 1, -1)[kept]
    for image, row, column in np.ndindex(score.shape):
        points = together[kept[:, row, column], :, row, column]
        if len(points) < TOKENS_PER_CHANNEL * CHANNELS:
            assert (row, column) in {(0, 1), (1, 2)}
            points = everywhere
        expected = by_hand(points, QUERIES[image, :, row, column])
        assert float(score[image, row, column]) == pytest.approx(expected, rel=1e-4)


def test_few_images_are_compared_on_few_channels():
    for images, expected in ((4, 1), (9, 2), (200, CHANNELS)):
        assert PositionGaussian.fit([tokens(2, images)]).channels == expected
    assert PositionGaussian.fit([tokens(2, 200)], channels=3).channels == 3


def test_squared_scores_of_new_normals_average_to_the_number_of_channels():
    score = PositionGaussian.fit([tokens(2, 4000)], ridge=0.0).score(
        torch.from_numpy(tokens(6, 2000))
    )
    assert float(score.square().mean()) == pytest.approx(CHANNELS, rel=0.03)


def test_the_seed_chooses_channels():
    def choice(seed: int) -> list[int]:
        basis = PositionGaussian.fit(NORMALS, channels=2, seed=seed).basis
        assert torch.equal(basis.T @ basis, torch.eye(2))
        return basis.argmax(dim=0).tolist()

    assert choice(1) == choice(1)
    assert len({tuple(choice(seed)) for seed in range(8)}) > 1


def test_half_precision_tokens_are_taken_as_they_are_stored():
    halves = [volume.astype(np.float16) for volume in NORMALS]
    queries = torch.from_numpy(QUERIES).half()
    torch.testing.assert_close(
        PositionGaussian.fit(halves).score(queries),
        PositionGaussian.fit([half.astype(np.float32) for half in halves]).score(queries),
    )


def test_too_few_images_or_tokens_are_refused():
    with pytest.raises(InputError, match="at least 4 normal images; found 3 images"):
        PositionGaussian.fit([tokens(2, 3)])
    nowhere = [np.zeros((30, HEIGHT, WIDTH), bool)]
    with pytest.raises(InputError, match="found 0 tokens inside the body"):
        PositionGaussian.fit(NORMALS[:1], nowhere)
