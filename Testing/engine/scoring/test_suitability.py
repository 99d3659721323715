"""Scans that are unlike the normal scans are told from those that are like them."""

import dataclasses

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.cards import suitability as suitability_cards
from SpatialARAnomalyLib.engine.cards.suitability import (
    MEASURES,
    UNLIKE_P,
    Look,
    Spread,
    Suitability,
    verdicts,
)
from SpatialARAnomalyLib.engine.scoring.suitability_fit import (
    distances_from_others,
    fit_spread,
    fit_suitability,
    measure_volume,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import normal_head

CHANNELS = 12
GRID = {"shape_kji": (6, 64, 64), "spacing_mm": (3.6, 3.6, 20.0)}


def drawn(random: np.random.Generator, shift: float = 0.0) -> Look:
    """Make the look of a scan whose slices and persons differ."""
    person = random.normal(scale=0.3, size=CHANNELS)
    return Look(
        random.normal(size=(6, 5)) + person[:5] + shift,
        random.normal(size=(1, 2)),
        random.normal(size=(9, CHANNELS)) + person,
    )


def test_the_distance_is_the_brute_force_mahalanobis_distance() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 5)) @ random.normal(size=(5, 5))
    spread = fit_spread(list(rows[:, None]), ridge=0.1)
    covariance = np.cov(rows.T, bias=True)
    covariance += 0.1 * np.trace(covariance) / 5 * np.eye(5)
    others = random.normal(size=(7, 5))
    away = others - rows.mean(axis=0)
    # The last of the directions is the only other one, so nothing is averaged.
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away) / 5).mean()
    assert spread.distance(others) == pytest.approx(expected, rel=1e-3)


def test_every_scan_has_the_same_weight() -> None:
    few, many = np.zeros((2, 3)), np.ones((50, 3))
    assert fit_spread([few, many], prior=1).mean == (0.5, 0.5, 0.5)


def test_normal_scans_are_flagged_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(1)
    flagged = []
    for _ in range(15):
        fitted = fit_suitability([drawn(random) for _ in range(10)], list("abcdefghij"))
        flagged += [fitted.verdict(drawn(random)).unlike for _ in range(10)]
    assert 0.0 < np.mean(flagged) < 2.5 * UNLIKE_P


@pytest.mark.parametrize("normals", [4, 20])
def test_a_scan_of_another_contrast_is_flagged_by_its_contrast(normals: int) -> None:
    random = np.random.default_rng(2)
    names = [str(number) for number in range(normals)]
    fitted = fit_suitability([drawn(random) for _ in names], names)
    verdict = fitted.verdict(drawn(random, shift=20.0))
    assert verdict.unlike
    assert (verdict.measure, verdict.normals) == ("contrast", normals)
    assert verdict.factor > 5


def test_two_normal_scans_give_no_verdict() -> None:
    random = np.random.default_rng(3)
    assert (
        fit_suitability([drawn(random), drawn(random)], ["a", "b"]).verdict(drawn(random)) is None
    )


def test_scans_of_one_patient_are_not_compared_with_each_other() -> None:
    random = np.random.default_rng(4)
    looks = [drawn(random) for _ in range(5)]
    twice = [*looks, looks[0]]
    distances = distances_from_others(twice, ["a", "b", "c", "d", "e", "a"])
    assert distances[0] == distances[5]
    assert distances[0] == distances_from_others(looks, list("abcde"))[0]


def test_a_card_keeps_the_verdict() -> None:
    random = np.random.default_rng(5)
    fitted = fit_suitability([drawn(random) for _ in range(4)], list("abcd"))
    look = drawn(random, shift=1.0)
    assert Suitability.from_dict(fitted.to_dict()).verdict(look) == fitted.verdict(look)


def test_an_invalid_card_is_refused() -> None:
    with pytest.raises(Exception, match="rest must be > 0"):
        Spread(mean=(0.0,), directions=(), variances=(), rest=0.0)
    with pytest.raises(Exception, match="a variance each"):
        Spread(mean=(0.0,), directions=((1.0, 0.0),), variances=(1.0,), rest=1.0)


def looked(volume: Volume) -> Look:
    """Measure contrast and shape; the tokens are the same for all."""
    measured = measure_volume(PlaneVolume(volume, Plane.AXIAL, Modality.MR), Modality.MR)
    return Look(*measured, np.zeros((1, 2)))


def changed(head: Volume, voxels: np.ndarray) -> Volume:
    return Volume(np.ascontiguousarray(voxels), head.ras_from_voxel)


@pytest.fixture(scope="module")
def heads() -> list[Look]:
    return [looked(normal_head(seed, **GRID)) for seed in range(8)]


def test_other_contrasts_bodies_and_orientations_are_flagged_without_tokens(
    heads: list[Look],
) -> None:
    head = normal_head(20, **GRID)
    top = np.percentile(head.voxels, 99)
    odd = {
        "inverted": changed(head, np.where(head.voxels > 0.05 * top, top - head.voxels, 0)),
        "without skull": changed(head, np.where(head.brain, head.voxels, 0)),
        "turned": changed(head, np.rot90(head.voxels, axes=(1, 2))),
        "blurred": changed(head, np.repeat(np.repeat(head.voxels[:, ::4, ::4], 4, 1), 4, 2)),
    }
    looks = {"normal": looked(head)} | {name: looked(one) for name, one in odd.items()}
    found = {}
    for name, look in looks.items():
        distances = distances_from_others([*heads, look], [str(n) for n in range(9)], MEASURES)
        found[name] = verdicts(distances, MEASURES)[-1].unlike
    assert found == {"normal": False} | dict.fromkeys(odd, True)


def test_a_scan_of_many_is_compared_with_some_of_them(monkeypatch) -> None:
    random = np.random.default_rng(0)
    distances = np.exp(random.normal(scale=0.1, size=(60, len(MEASURES)))).tolist()
    distances[17] = [5.0] * len(MEASURES)
    all_others = verdicts(distances, MEASURES)
    monkeypatch.setattr(suitability_cards, "MAX_OTHERS", 59)
    assert verdicts(distances, MEASURES) == all_others
    monkeypatch.setattr(suitability_cards, "MAX_OTHERS", 20)
    some = verdicts(distances, MEASURES)
    assert {one.normals for one in some} == {20}
    assert some[17].unlike
    assert np.argmin([one.p_value for one in some]) == 17


def test_the_gain_of_the_scanner_does_not_matter() -> None:
    head = normal_head(3, **GRID)
    scaled = changed(head, 3.0 * head.voxels.astype(np.float32))
    for one, other in zip(
        dataclasses.astuple(looked(head))[:2], dataclasses.astuple(looked(scaled))[:2], strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-3)
