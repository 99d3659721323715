"""The memory bank and its coreset against brute force."""

import numpy as np
import pytest
import torch
from Benchmark.peers import coreset, memory_bank
from Benchmark.peers.brightness import brightness
from Benchmark.peers.coreset import k_center_greedy, sparse_projection
from Benchmark.peers.memory_bank import Distance, MemoryBank
from scipy.spatial.distance import cdist
from sklearn.random_projection import SparseRandomProjection
from SpatialARAnomalyLib.engine.errors import (
    Cancelled,
    InputError,
)
from SpatialARAnomalyLib.engine.progress import SilentReporter

pytestmark = pytest.mark.slow

CHANNELS = 12


def tokens(seed: int, images: int = 3, dtype=np.float32, channels: int = CHANNELS) -> np.ndarray:
    return np.random.RandomState(seed).normal(1, 2, (images, channels, 4, 5)).astype(dtype)


def rows(*volumes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.moveaxis(one, 1, -1).reshape(-1, one.shape[1]) for one in volumes])


NORMALS = [tokens(1), tokens(2, images=5)]
QUERIES = tokens(3, images=2)


def brute_force(bank: np.ndarray, queries: np.ndarray, distance: Distance) -> np.ndarray:
    to_all = cdist(rows(queries), bank, metric=distance.value)
    images, _, height, width = queries.shape
    return to_all.min(axis=1).reshape(images, height, width)


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize("chunk", [7, 16_384])
def test_a_score_is_the_distance_to_the_nearest_normal_token(distance, chunk, monkeypatch):
    monkeypatch.setattr(memory_bank, "CHUNK", chunk)
    monkeypatch.setattr(memory_bank, "QUERIES", chunk)
    score = MemoryBank.fit(NORMALS, distance=distance).score(torch.from_numpy(QUERIES))
    assert score.dtype == torch.float32
    expected = brute_force(rows(*NORMALS), QUERIES, distance)
    np.testing.assert_allclose(score, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("distance", Distance)
def test_a_token_of_the_bank_scores_zero(distance):
    halves = [volume.astype(np.float16) for volume in NORMALS]
    score = MemoryBank.fit(halves, distance=distance).score(torch.from_numpy(halves[1]))
    assert float(score.max()) == 0.0


def test_the_cosine_ignores_lengths_and_the_euclidean_distance_does_not():
    longer = torch.from_numpy(3 * NORMALS[0])
    assert float(MemoryBank.fit(NORMALS).score(longer).max()) < 1e-6
    euclidean = MemoryBank.fit(NORMALS, distance=Distance.EUCLIDEAN)
    assert float(euclidean.score(longer).median()) > 1.0


def test_opposite_tokens_have_cosine_distance_two():
    one = np.ones((1, CHANNELS, 1, 1), np.float32)
    assert float(MemoryBank.fit([one]).score(torch.from_numpy(-one))) == pytest.approx(2.0)


@pytest.mark.parametrize("distance", Distance)
def test_the_order_of_the_bank_changes_nothing(distance):
    bank = MemoryBank.fit(NORMALS, distance=distance)
    order = torch.randperm(len(bank.tokens), generator=torch.Generator().manual_seed(4))
    shuffled = MemoryBank(bank.tokens[order], distance)
    queries = torch.from_numpy(QUERIES)
    torch.testing.assert_close(bank.score(queries), shuffled.score(queries), rtol=1e-6, atol=1e-7)


def test_only_tokens_inside_are_kept():
    inside = [np.random.RandomState(5).rand(len(one), 4, 5) < 0.3 for one in NORMALS]
    bank = MemoryBank.fit(NORMALS, inside, distance=Distance.EUCLIDEAN)
    kept = np.concatenate([mask.ravel() for mask in inside])
    np.testing.assert_array_equal(bank.tokens, rows(*NORMALS)[kept])
    expected = brute_force(rows(*NORMALS)[kept], QUERIES, Distance.EUCLIDEAN)
    np.testing.assert_allclose(bank.score(torch.from_numpy(QUERIES)), expected, rtol=1e-5)


def test_a_bank_without_a_token_is_refused():
    outside = [np.zeros((len(one), 4, 5), bool) for one in NORMALS]
    with pytest.raises(InputError, match="needs at least one token inside the body; found none"):
        MemoryBank.fit(NORMALS, outside)


def test_bank_bytes_is_the_memory_of_a_bank():
    halves = [volume.astype(np.float16) for volume in NORMALS]
    kept = MemoryBank.fit(halves).tokens
    assert memory_bank.bank_bytes(8 * 20, CHANNELS) == kept.numel() * kept.element_size()


def greedy_by_hand(points: np.ndarray, count: int, first: int) -> list[int]:
    """The greedy rule by its definition: all distances are recomputed for each choice."""
    chosen = [first]
    while len(chosen) < count:
        nearest = cdist(points, points[chosen]).min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def test_the_farthest_token_is_chosen_next():
    points = rows(*NORMALS)
    chosen = k_center_greedy(torch.from_numpy(points), 30, first=11, report=SilentReporter())
    assert chosen.tolist() == greedy_by_hand(points, 30, 11)


def test_no_token_is_chosen_twice_even_where_all_are_equal():
    chosen = k_center_greedy(torch.ones(9, 3), 9, first=4, report=SilentReporter())
    assert sorted(chosen.tolist()) == list(range(9))


def radius(everything: np.ndarray, centers: np.ndarray) -> float:
    """Largest distance of a token to its nearest center."""
    return float(cdist(everything, centers).min(axis=1).max())


def test_a_coreset_is_the_greedy_choice_among_the_banks_tokens():
    everything = rows(*NORMALS)
    bank = MemoryBank.fit(
        NORMALS, distance=Distance.EUCLIDEAN, coreset_ratio=0.1, seed=3
    ).tokens.numpy()
    first = int((everything == bank[0]).all(axis=1).argmax())
    np.testing.assert_array_equal(bank, everything[greedy_by_hand(everything, 16, first)])
    # Hence twice the best radius at most: one of so many tokens, so far apart, would be left over.
    apart = cdist(bank, bank)[np.triu_indices(len(bank), 1)]
    assert 0 < radius(everything, bank) <= apart.min()


def test_a_coreset_on_a_projection_leaves_no_cluster_out():
    channels, clusters = 3 * coreset.PROJECTED_CHANNELS, 20
    random = np.random.RandomState(8)
    centers = random.normal(0, 3, (clusters, channels))
    cluster = random.randint(clusters, size=(10, 4, 5))
    cluster.flat[:clusters] = np.arange(clusters)
    cluster.flat[clusters:150] = 0  # a crowd, of which a random choice would take most
    near = centers[cluster] + random.normal(0, 0.1, (10, 4, 5, channels))
    normals = [np.moveaxis(near, -1, 1).astype(np.float32)]
    bank = MemoryBank.fit(normals, distance=Distance.EUCLIDEAN, coreset_ratio=0.1).tokens.numpy()
    everything = rows(*normals)
    assert bank.shape == (clusters, channels)
    assert {row.tobytes() for row in bank} <= {row.tobytes() for row in everything}
    assert radius(everything, bank) < 0.1 * cdist(centers, centers)[0, 1]


def test_the_seed_alone_decides_the_coreset():
    def chosen(seed: int) -> np.ndarray:
        return MemoryBank.fit(NORMALS, coreset_ratio=0.1, seed=seed).tokens.numpy()

    np.testing.assert_array_equal(chosen(1), chosen(1))
    assert not np.array_equal(chosen(1), chosen(2))


def test_a_cosine_coreset_ignores_lengths():
    scaled = [volume * np.float32(scale) for volume, scale in zip(NORMALS, (1, 5), strict=True)]

    def directions(normals: list[np.ndarray]) -> np.ndarray:
        bank = MemoryBank.fit(normals, coreset_ratio=0.2, seed=3).tokens
        return torch.nn.functional.normalize(bank).numpy()

    np.testing.assert_allclose(directions(NORMALS), directions(scaled), atol=1e-6)


def test_a_projection_keeps_distances_as_scikit_learns_does():
    points = rows(tokens(1, 20, channels=384))
    matrix = sparse_projection(384, 128, torch.Generator().manual_seed(6)).numpy()
    theirs = SparseRandomProjection(128, random_state=6).fit(points)
    pairs = np.triu_indices(len(points), 1)

    def kept(projected: np.ndarray) -> np.ndarray:
        return (cdist(projected, projected) / np.maximum(cdist(points, points), 1e-9))[pairs]

    assert kept(points @ matrix).mean() == pytest.approx(1.0, abs=0.05)
    assert kept(points @ matrix).std() == pytest.approx(
        kept(theirs.transform(points)).std(), rel=0.3
    )
    assert np.count_nonzero(matrix) / matrix.size == pytest.approx(theirs.density_, rel=0.1)
    np.testing.assert_allclose(
        np.abs(matrix[matrix != 0]), np.abs(theirs.components_.data).max(), rtol=1e-5
    )


def test_choosing_a_coreset_can_be_cancelled():
    class Impatient(SilentReporter):
        def check_cancelled(self) -> None:
            raise Cancelled

    with pytest.raises(Cancelled):
        MemoryBank.fit(NORMALS, coreset_ratio=0.1, report=Impatient())


def test_brightness_is_the_mean_of_a_patch():
    image = torch.arange(24.0).reshape(1, 1, 4, 6) / 24
    expected = image[0, 0].reshape(2, 2, 3, 2).mean(dim=(1, 3))
    torch.testing.assert_close(brightness(image, 2)[0], expected)
    assert torch.equal(brightness(image, 1)[0], image[0, 0])
