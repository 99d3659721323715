"""The phantom suite: its cohort, its measures against brute force, and the whole command."""

import csv
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from Benchmark.phantom_suite import main
from Benchmark.suite.earlier import read_trials
from Benchmark.suite.heads import (
    ANOMALOUS,
    NORMAL,
    TRAINING,
    TWIN,
    CohortSpec,
    Head,
    cohort,
    scan_heads,
)
from Benchmark.suite.measures import (
    MARGIN_TOKENS,
    REACH_TOKENS,
    after,
    shadow,
    shadow_pairs,
    voxel_figures,
)
from Benchmark.suite.scans import Embedder, Scan, axial
from Benchmark.suite.summary import difference, estimate, uniformity
from Benchmark.suite.trial import run_method
from Data.template_anomalies import FAMILIES
from scipy import ndimage
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore

pytestmark = pytest.mark.slow

SPEC = CohortSpec(
    training=1, held_out=1, normals=1, families=("bright",), sizes=("large",), repeats=1,
    spacing_mm=4.0, every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    slices = axial(210.0, 336)
    embedder = Embedder(load_encoder("demonstration"), slices, FeatureStore(folder / "tokens"))
    heads = cohort(SPEC)
    made = {
        head: embedder.scan(head, path) for head, path in scan_heads(heads, SPEC, folder / "heads")
    }
    assert embedder.embedded == sum(len(scan.tokens) for scan in made.values())
    # A second embedder reads everything from disk.
    again = Embedder(embedder.encoder, slices, FeatureStore(folder / "tokens"))
    for head, path in scan_heads(heads, SPEC, folder / "heads"):
        assert np.array_equal(again.scan(head, path).tokens, made[head].tokens)
    assert again.embedded == 0
    return made


@pytest.fixture(scope="module")
def anomalous(scans):
    return next(scan for head, scan in scans.items() if head.group == ANOMALOUS)


def test_every_head_is_another_patient():
    heads = cohort(CohortSpec())
    assert len(heads) == 24 + 16 + 60 + 2 * 54
    seeds = [head.seed for head in heads if head.group != TWIN]
    assert len(set(seeds)) == len(seeds)
    twins = {(head.family, head.size, head.seed) for head in heads if head.group == TWIN}
    ill = {(head.family, head.size, head.seed) for head in heads if head.group == ANOMALOUS}
    assert twins == ill
    assert {family for family, _, _ in ill} == set(FAMILIES)
    # Fewer families or repeats are a part of the same cohort.
    few = cohort(CohortSpec(families=("texture",), sizes=("medium",), repeats=2))
    assert set(few) < set(heads)


def test_kept_slices_are_8_mm_apart_and_show_the_anomaly(scans, anomalous):
    for scan in scans.values():
        assert scan.stored.volume.spacing_mm == pytest.approx((4.0, 4.0, 8.0))
    twin = next(scan for head, scan in scans.items() if head.group == TWIN)
    normal = ~anomalous.stored.truth & ~anomalous.stored.ignored
    one, other = anomalous.stored.volume, twin.stored.volume
    assert np.array_equal(one.ras_from_voxel, other.ras_from_voxel)
    assert np.array_equal(one.voxels[normal], other.voxels[normal])
    # Every second slice holds about half of the ball, and its middle.
    found_ml = anomalous.stored.truth.sum() * one.voxel_ml
    assert found_ml == pytest.approx(4 / 3 * np.pi * 1.3**3, rel=0.25)


def test_tokens_lie_where_they_say(anomalous):
    """The voxel at a token's RAS position is in the body if the token is."""
    volume, stack = anomalous.stored.volume, anomalous.stack
    assert anomalous.positions_mm.shape == (*anomalous.inside.shape, 3)
    homogeneous = np.append(anomalous.positions_mm, np.ones((*anomalous.inside.shape, 1)), axis=-1)
    ijk = np.rint(homogeneous @ np.linalg.inv(volume.ras_from_voxel).T)[..., :3].astype(int)
    body = np.array(stack.plane_volume.orientation.undo(stack.counted))
    shape = np.array(volume.voxels.shape[::-1])
    assert np.all(ijk[anomalous.inside] >= 0)
    assert np.all(ijk[anomalous.inside] < shape)
    i, j, k = np.clip(ijk, 0, shape - 1).transpose(3, 0, 1, 2)
    # Halfway between two voxels, both are valid.
    around = np.ones((1, 3, 3))
    assert np.all(ndimage.binary_dilation(body, around)[k, j, i][anomalous.inside])
    assert not np.any(ndimage.binary_erosion(body, around)[k, j, i][~anomalous.inside])
    assert 0.1 < anomalous.inside.mean() < 0.9


def test_after_is_right_in_the_row_and_all_around_below():
    random = np.random.default_rng(0)
    anomaly = random.random((2, 9, 7)) < 0.06
    for reach in (1, 3):
        expected = np.zeros_like(anomaly)
        for n, row, column in itertools.product(*map(range, anomaly.shape)):
            for r, c in np.argwhere(anomaly[n]):
                right = row == r and 0 < column - c <= reach
                below = 0 < row - r <= reach and abs(column - c) <= reach
                expected[n, row, column] |= right or below
        assert np.array_equal(after(anomaly, reach), expected)
    assert expected.any()


def test_shadow_pairs_are_normal_tissue_and_its_mirror(anomalous):
    zone, mirror = shadow_pairs(anomalous)
    assert 3 < zone.sum() == mirror.sum()
    assert not np.any(zone & mirror)
    assert np.array_equal(zone, mirror[:, :, ::-1])
    changed = anomalous.share_of_tokens(anomalous.stored.truth | anomalous.stored.ignored) > 0
    for n, row, column in np.argwhere(zone | mirror):
        assert anomalous.inside[n, row, column]
        near = changed[
            n, max(row - MARGIN_TOKENS, 0) : row + MARGIN_TOKENS + 1,
            max(column - MARGIN_TOKENS, 0) : column + MARGIN_TOKENS + 1,
        ]  # fmt: skip
        assert not near.any()
    rows = {n: np.argwhere(changed[n])[:, 0] for n in np.unique(np.argwhere(zone)[:, 0])}
    for n, row, _ in np.argwhere(zone):
        assert row >= rows[n].min()
        assert row <= rows[n].max() + MARGIN_TOKENS + REACH_TOKENS


def test_the_shadow_is_a_planted_one_in_standard_deviations(anomalous):
    zone, _ = shadow_pairs(anomalous)
    random = np.random.default_rng(1)
    right_left = random.normal(size=zone.shape)
    symmetric = right_left + right_left[:, :, ::-1]
    planted = symmetric + 3.0 * zone
    found = shadow(planted, symmetric, anomalous, spread=2.0)
    assert found.against_mirror == pytest.approx(1.5)
    assert found.against_twin == pytest.approx(1.5)
    assert found.disturbance == pytest.approx(1.5)
    assert found.response == 0.0
    raised = symmetric + 4.0 * (anomalous.share_of_tokens(anomalous.stored.truth) > 0)
    assert shadow(raised, symmetric, anomalous, spread=2.0).response == pytest.approx(2.0)
    # Opposite changes cancel in the mean, but not in the disturbance.
    turns = np.cumsum(zone).reshape(zone.shape) % 2 * 2.0 - 1
    assert shadow(symmetric + turns * zone, symmetric, anomalous, 2.0).disturbance == (
        pytest.approx(0.5)
    )
    assert abs(shadow(symmetric + turns * zone, symmetric, anomalous, 2.0).against_twin) < 0.03
    none = shadow(symmetric, symmetric, anomalous, spread=2.0)
    assert none.against_mirror == pytest.approx(0.0, abs=1e-12)
    # An asymmetry of the twin itself is no shadow.
    slope = symmetric + np.arange(zone.shape[2])
    assert abs(shadow(slope, slope, anomalous, spread=2.0).against_mirror) > 0.5
    assert shadow(slope, slope, anomalous, spread=2.0).against_twin == 0.0


def test_share_of_tokens_sums_to_the_mask_s_area(anomalous):
    truth = anomalous.stored.truth
    share = anomalous.share_of_tokens(truth)
    token_mm2 = (210.0 / 21) ** 2
    assert share.sum() * token_mm2 == pytest.approx(truth.sum() * 16.0, rel=0.02)
    k = truth.sum(axis=(1, 2)).argmax()
    right, anterior, _ = (
        anomalous.stored.volume.ras_from_voxel @ [*np.argwhere(truth)[:, ::-1].mean(axis=0), 1]
    )[:3]
    place = np.average(anomalous.positions_mm.reshape(-1, 3), axis=0, weights=share.ravel())
    assert np.allclose(place[:2], [right, anterior], atol=2.0)
    assert share[list(anomalous.stack.indices).index(k)].max() > 0.9


def test_ignored_voxels_count_in_no_metric():
    random = np.random.default_rng(2)
    shape = (3, 6, 5)
    scores = random.integers(0, 6, shape).astype(float)
    truth = random.random(shape) < 0.2
    ignored = (random.random(shape) < 0.2) & ~truth
    body = random.random(shape) < 0.9
    truth &= body
    scores[ignored] = 100.0
    scan = SimpleNamespace(
        stack=SimpleNamespace(inside_volume=lambda: body),
        stored=SimpleNamespace(truth=truth, ignored=ignored),
    )
    found = voxel_figures(scores, scan)
    pairs = [
        (score > other) + 0.5 * (score == other)
        for score in scores[truth]
        for other in scores[body & ~ignored & ~truth]
    ]
    assert found.auroc == pytest.approx(np.mean(pairs))
    counted = body & ~ignored
    dices, precision, recall_before = [], 0.0, 0.0
    for threshold in sorted(set(scores[counted]), reverse=True):
        marked = counted & (scores >= threshold)
        both = np.count_nonzero(marked & truth)
        dices.append(2 * both / (marked.sum() + truth.sum()))
        recall = both / truth.sum()
        precision += (recall - recall_before) * both / marked.sum()
        recall_before = recall
    assert found.best_dice == pytest.approx(max(dices))
    assert found.average_precision == pytest.approx(precision)
    assert 0 < found.pro < 1


def heads_of(**families):
    """Return head → value, by family."""
    return {
        Head(group=ANOMALOUS, family=family, size="large", seed=number): value
        for family, values in families.items()
        for number, value in enumerate(values)
    }


def test_families_weigh_the_same_and_heads_without_a_value_nothing():
    found = estimate(heads_of(bright=[1.0, 1.0, 1.0], dark=[0.0, np.nan]))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    assert np.isnan(estimate({}).mean)


def test_the_interval_is_that_of_a_mean():
    """For n patients it is ±1.96·σ/√n; for two families half of that in square."""
    one, other = np.random.default_rng(3).normal(size=(2, 200))
    single = estimate(heads_of(bright=one), resamples=4000)
    expected = 2 * 1.96 * one.std() / np.sqrt(200)
    assert single.high - single.low == pytest.approx(expected, rel=0.06)
    both = estimate(heads_of(bright=one, dark=other), resamples=4000)
    assert both.high - both.low == pytest.approx(expected / np.sqrt(2), rel=0.1)


def test_differences_are_paired():
    values = np.random.default_rng(4).normal(size=20)
    found = difference(heads_of(bright=values + 0.1), heads_of(bright=values))
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)


def test_uniform_p_values_are_told_from_others():
    random = np.random.default_rng(5)
    assert uniformity(random.random(60)) > 0.01
    assert uniformity(random.random(60) ** 3) < 1e-4
    assert np.isnan(uniformity([]))


def test_a_method_of_the_wrong_shape_is_told_so(scans):
    lesson = SimpleNamespace(
        training=[scan for scan in scans.values() if scan.head.group == TRAINING],
        held_out=list(scans.values())[1:2],
    )
    with pytest.raises(ValueError, match=r"tokens \(\d+, 21, 21\) or voxels"):
        run_method(lambda lesson: lambda scan: np.zeros((3, 3)), lesson, [])


def test_thresholds_of_held_out_heads_keep_their_rate_on_themselves(scans):
    """If the fresh head is the held-out head itself, the rate reached is the rate asked."""
    held_out = list(scans.values())[1]
    normal = Head(group=NORMAL, seed=9)
    fresh = Scan(normal, held_out.path, held_out.slices, held_out.patch_px, held_out.tokens)
    lesson = SimpleNamespace(training=[next(iter(scans.values()))], held_out=[held_out])
    learn = lambda lesson: lambda scan: scan.tokens[:, 0].astype(np.float32)  # noqa: E731
    trial = run_method(learn, lesson, [fresh], pictured=[normal])
    assert trial.rates[0.01][normal] == pytest.approx(0.01, abs=0.002)
    top = np.sort(trial.maps[normal][held_out.stack.inside_volume()])
    assert trial.case_scores[normal] == pytest.approx(
        top[-len(top) // 100 :].mean() - np.median(top), rel=0.01
    )
    assert trial.case_p_values == {}  # one held-out head gives no p-value
    shown = trial.maps[normal]
    assert np.array_equal(np.isfinite(shown), held_out.stack.inside_volume())


@pytest.mark.slow
def test_the_whole_command(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    main(
        [str(out), "--work", str(work), "--quick", "--families", "bright,texture",
         "--methods", "standard,memory bank,intensity"]
    )  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "table.md", "methods.csv", "heads.csv", "results.json",
        "ranking.png", "families.png", "examples.png",
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    methods = results["methods"]
    assert list(methods) == ["standard", "memory bank", "intensity"]
    bright = {name: one["families"]["bright"]["average_precision"] for name, one in methods.items()}
    assert bright["intensity"]["mean"] > 0.9
    assert bright["memory bank"]["mean"] > 0.05
    assert methods["intensity"]["against_mirror"]["mean"] is None
    # In a memory bank, tokens depend on their neighbors by attention only.
    assert abs(methods["memory bank"]["against_twin"]["mean"]) < 0.1
    assert results["surroundings"]["versions"]["torch"]
    assert str(tmp_path) not in json.dumps(results)
    with (out / "heads.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (2 + 2)
    table = (out / "table.md").read_text(encoding="utf-8")
    first = next(line for line in table.splitlines() if line.startswith("| intensity"))
    assert f"{methods['intensity']['average_precision']['mean']:.3f}" in first
    # A second run reuses heads and tokens, and gives the same.
    stamps = {path: path.stat().st_mtime_ns for path in work.rglob("*.np*")}
    assert len(stamps) == 2 * (3 + 2 + 2 + 4)
    main(
        [str(out), "--work", str(work), "--quick", "--families", "bright,texture",
         "--methods", "intensity", "--earlier", str(out / "results.json")]
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.np*")} == stamps
    again = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert again["methods"]["intensity"]["families"] == methods["intensity"]["families"]
    assert again["methods"]["standard"] == methods["standard"]
    assert len(again["heads"]) == len(results["heads"])
    with pytest.raises(ValueError, match=r"results.json was made with other seed\."):
        read_trials(out / "results.json", {**again["settings"], "seed": 1})


def test_an_unknown_method_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["out", "--methods", "standard,magic"])
    assert "magic not known; known: composite, standard" in capsys.readouterr().err
