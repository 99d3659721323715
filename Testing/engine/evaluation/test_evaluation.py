"""Metrics equal those of counting pairs, thresholds and flood fills by hand, with ties."""

from itertools import combinations_with_replacement, pairwise, product

import numpy as np
import pytest
from engine.grids import find
from scipy import ndimage
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.errors import Cancelled, InputError
from SpatialARAnomalyLib.engine.evaluation import metrics as voxel_metrics
from SpatialARAnomalyLib.engine.evaluation.evaluation import (
    METRICS,
    SearchRule,
    evaluate_cases,
    score_case,
)
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions, rank_of_lesion, search
from SpatialARAnomalyLib.engine.evaluation.metrics import (
    PooledCounts,
    count_scores,
    interval,
    patient_weights,
)
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score

SHAPE = (4, 6, 7)
CALIBRATION = Calibration(
    levels=(0.0, 1.0), nll=(0.0, 9.0), token_nll=(0.0, 9.0), tokens=9, volumes=1
)
UNIT = np.eye(4)
"""A voxel is a microliter."""

RULE = SearchRule(threshold=4.0, min_volume_ml=0.0, thresholds=(1.0, 3.0, 6.0))


def random_scan(seed: int, levels: int = 9, lesions: float = 0.15, body: float = 0.8):
    """Scores with ties, a body and lesions, some of whose voxels lie outside it."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(levels, size=SHAPE).astype(np.float32)
    truth = generator.random(SHAPE) < lesions
    scores[truth] += generator.integers(levels // 2 + 1, size=SHAPE)[truth]
    return scores, generator.random(SHAPE) < body, truth


def pooled(scans):
    """Of every voxel that counts: its score (−∞ if missed), its truth, and its lesion."""
    scores, truth, lesion, first = [], [], [], 1
    for values, body, mask in scans:
        labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
        counted = body | mask
        scores.append(np.where(body, values, -np.inf)[counted])
        truth.append(mask[counted])
        lesion.append(np.where(labels, labels + first - 1, 0)[counted])
        first += count
    return np.concatenate(scores), np.concatenate(truth), np.concatenate(lesion)


def pairs_auroc(scores, truth):
    """Share of pairs of a lesion voxel and a normal one in the right order, ties half."""
    ill, well = scores[truth][:, None], scores[~truth][None]
    return float(np.mean((ill > well) + 0.5 * (ill == well)))


def stepped_precision(scores, truth):
    """Average precision by its definition, threshold by threshold."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = truth[taken].sum() / truth.sum()
        total += (recall - recall_before) * truth[taken].mean()
        recall_before = recall
    return total


def stepped_pro(scores, truth, lesion):
    """Area under per-region overlap up to the limit, trapezoid by trapezoid."""
    points = [(0.0, 0.0)]
    regions = [scores[lesion == one] for one in sorted(set(lesion[truth].tolist()))]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        rate = float(np.mean(scores[~truth] >= threshold))
        points.append((rate, float(np.mean([np.mean(one >= threshold) for one in regions]))))
    area = 0.0
    for (x, y), (next_x, next_y) in pairwise(points):
        if x >= 0.3:
            break
        if next_x > 0.3:
            next_x, next_y = 0.3, y + (next_y - y) * (0.3 - x) / (next_x - x)
        area += (next_x - x) * (y + next_y) / 2
    return area / 0.3


def dice_of(taken, truth):
    return float(2 * np.sum(taken & truth) / (np.sum(taken) + np.sum(truth)))


def tally_of(scans):
    counts = PooledCounts.of(
        [count_scores(scores, body, Lesions.of(truth)) for scores, body, truth in scans]
    )
    return counts.tally(np.ones(len(scans))), counts


def scored(scans, rule=RULE, patients=None):
    names = patients or [str(index) for index in range(len(scans))]
    return [score_case(*scan, UNIT, rule, name) for scan, name in zip(scans, names, strict=True)]


def values(scans, rule=RULE):
    outcome = evaluate_cases(scored(scans, rule), rule, SilentReporter(), resamples=0)
    return {name: metric.value for name, metric in outcome.metrics.items()}


@pytest.mark.parametrize("seed", range(6))
def test_voxel_metrics_are_those_of_brute_force(seed):
    scans = [random_scan(10 * seed + one, levels=2 + 3 * seed) for one in range(3)]
    scans.append(random_scan(99 + seed, lesions=0.0))
    scores, truth, lesion = pooled(scans)
    tally, counts = tally_of(scans)
    assert counts.exact
    assert voxel_metrics.auroc(tally) == pytest.approx(pairs_auroc(scores, truth), abs=1e-12)
    assert voxel_metrics.average_precision(tally) == pytest.approx(
        stepped_precision(scores, truth), abs=1e-12
    )
    assert voxel_metrics.pro(tally) == pytest.approx(stepped_pro(scores, truth, lesion), abs=1e-12)
    dices = {
        threshold: dice_of(scores >= threshold, truth)
        for threshold in sorted(set(scores[np.isfinite(scores)].tolist()))
    }
    best, rank = voxel_metrics.best_dice(tally)
    assert best == pytest.approx(max(dices.values()), abs=1e-12)
    highest = max(threshold for threshold, dice in dices.items() if dice == max(dices.values()))
    assert counts.scores[rank - 1] == highest


@pytest.mark.parametrize("seed", range(4))
def test_metrics_at_the_threshold_are_those_of_brute_force(seed):
    scans = [random_scan(20 * seed + one, lesions=0.0 if one > 2 else 0.1) for one in range(6)]
    scores, truth, _ = pooled(scans)
    found = values(scans)
    assert found["dice"] == pytest.approx(dice_of(scores >= 4.0, truth), abs=1e-12)
    per_case = [pooled([scan])[:2] for scan in scans[:3]]
    assert found["dice_per_case"] == pytest.approx(
        np.mean([dice_of(one >= 4.0, mask) for one, mask in per_case]), abs=1e-12
    )
    normal, _, _ = pooled(scans[3:])
    assert found["false_positive_rate"] == pytest.approx(np.mean(normal >= 4.0), abs=1e-12)
    case_scores = np.array([case_score(scan[0][scan[1]]) for scan in scans])
    assert found["case_auroc"] == pytest.approx(
        pairs_auroc(case_scores, np.arange(6) < 3), abs=1e-12
    )


def flood(mask):
    """Sets of voxels that touch by face, edge or corner."""
    left = {tuple(place) for place in np.argwhere(mask).tolist()}
    regions = []
    while left:
        front, region = [left.pop()], set()
        while front:
            place = front.pop()
            region.add(place)
            for step in product((-1, 0, 1), repeat=3):
                neighbor = tuple(a + b for a, b in zip(place, step, strict=True))
                if neighbor in left:
                    left.remove(neighbor)
                    front.append(neighbor)
        regions.append(region)
    return regions


@pytest.mark.parametrize(("seed", "least"), [*product(range(5), (0.0, 0.002, 0.004))])
def test_a_lesion_is_found_where_a_large_enough_finding_overlaps_it(seed, least):
    scores, _, truth = random_scan(seed, lesions=0.06, body=1.0)
    thresholds = (5.0, 7.0, 9.0, 50.0)
    counted = search(scores, Lesions.of(truth), thresholds, UNIT, least)
    for place, threshold in enumerate(thresholds):
        lesions = flood(truth)
        findings = [one for one in flood(scores >= threshold) if len(one) / 1000 >= least - 1e-9]
        found = sum(any(lesion & finding for finding in findings) for lesion in lesions)
        false = sum(not any(lesion & finding for lesion in lesions) for finding in findings)
        assert counted[:, place].tolist() == [found, false]


def test_a_search_has_the_findings_of_a_detection():
    scores, _, _ = random_scan(3, body=1.0)
    findings, _ = find(scores, UNIT, CALIBRATION, 8.0, 0.002)
    nothing = Lesions.of(np.zeros(SHAPE, dtype=bool))
    assert len(findings) > 1
    assert search(scores, nothing, (8.0,), UNIT, 0.002).tolist() == [[0], [len(findings)]]


def test_lesion_wise_figures_are_shares_of_all_lesions_and_means_over_scans():
    scores = np.zeros(SHAPE, dtype=np.float32)
    truth = np.zeros(SHAPE, dtype=bool)
    truth[0, 0, :2] = truth[2, 4, 4] = True
    scores[0, 0, 1:3] = 5.0  # reaches into the first lesion
    scores[0, 5, 6] = 7.0  # false
    body = np.ones(SHAPE, dtype=bool)
    normal = (scores * 0, body, np.zeros(SHAPE, dtype=bool))
    cases = scored([(scores, body, truth), normal])
    outcome = evaluate_cases(cases, RULE, SilentReporter(), resamples=0)
    assert outcome.metrics["lesions_found"].value == 0.5
    assert cases[0].lesion_rank == 2  # two voxels 1 above the threshold, after one 3 above
    assert outcome.metrics["lesion_first"].value == 0.0
    assert outcome.metrics["false_findings_per_scan"].value == 0.5
    assert outcome.curves["froc"][1].tolist() == [0.0, 0.5, 0.5]
    assert outcome.curves["froc"][0].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("seed", range(6))
def test_the_rank_of_the_lesion_is_that_of_the_first_finding_on_it(seed):
    scores, _, truth = random_scan(seed, body=1.0)
    lesions = Lesions.of(truth)
    for threshold, least in ((5.0, 0.0), (7.0, 0.002), (9.0, 0.0), (50.0, 0.0)):
        findings, labels = find(scores, UNIT, CALIBRATION, threshold, least)
        on = [one.rank for one in findings if truth[labels == one.rank].any()]
        assert rank_of_lesion(scores, lesions, threshold, UNIT, least) == min(on, default=0)


def test_the_curve_of_findings_ends_where_they_grow_together():
    scores = np.zeros(SHAPE, dtype=np.float32)
    truth = scores > 0
    scores[0, ::2, 0] = 3.0
    scores[0, :, 0] += 2.0  # at 2 the three are one, which also reaches the lesion
    truth[0, 5, 0] = True
    rule = SearchRule(threshold=None, min_volume_ml=0.0, thresholds=(2.0, 5.0, 9.0))
    cases = scored([(scores, np.ones(SHAPE, dtype=bool), truth)], rule)
    assert (cases[0].false_findings.tolist(), cases[0].found.tolist()) == ([0, 3, 0], [1, 0, 0])
    curves = evaluate_cases(cases, rule, SilentReporter(), resamples=0).curves
    assert [axis.tolist() for axis in curves["froc"]] == [[0.0, 3.0], [0.0, 0.0]]


def test_equal_scores_have_the_metrics_of_chance():
    _, body, truth = random_scan(1, body=1.0)
    found = values([(np.full(SHAPE, 2.0, dtype=np.float32), body, truth)])
    assert found["voxel_auroc"] == 0.5
    assert found["average_precision"] == pytest.approx(truth.mean())
    assert found["pro"] == pytest.approx(0.15)  # the diagonal up to 0.3, over 0.3
    assert found["best_dice"] == pytest.approx(dice_of(body, truth))
    assert found["dice"] == found["lesions_found"] == found["false_findings_per_scan"] == 0.0


def test_a_single_lesion_voxel_above_all_others_is_perfect():
    scores, body, truth = (np.zeros(SHAPE, dtype=kind) for kind in (np.float32, bool, bool))
    body[:] = True
    scores[2, 3, 3] = 8.0
    truth[2, 3, 3] = True
    found = values([(scores, body, truth)])
    perfect = "voxel_auroc average_precision pro dice dice_per_case best_dice lesions_found"
    assert {name: found[name] for name in perfect.split()} == dict.fromkeys(perfect.split(), 1.0)
    assert found["best_dice_threshold"] == 8.0


def test_lesion_voxels_outside_the_body_are_missed_at_every_threshold():
    scores, body, truth = random_scan(5, body=1.0)
    body[truth] = False
    scores[truth] = 100.0
    found = values([(scores, body, truth)])
    assert found["voxel_auroc"] == found["pro"] == found["dice"] == found["best_dice"] == 0.0
    assert found["lesions_found"] == 0.0


AREAS = ("voxel_auroc", "average_precision", "pro")
AT_THRESHOLD = (
    "dice", "dice_per_case", "false_positive_rate", "lesions_found", "lesion_first",
    "false_findings_per_scan",
)  # fmt: skip

REASONS = {
    "no lesion": dict.fromkeys(
        set(METRICS) - {"false_positive_rate", "false_findings_per_scan"}, "no scan has a lesion"
    ),
    "all lesion": {
        **dict.fromkeys(AREAS, "no scan has a voxel of normal body"),
        **dict.fromkeys(("false_positive_rate", "case_auroc"), "no scan is normal"),
    },
    "no threshold": {
        **dict.fromkeys(AT_THRESHOLD, "these scores have no calibrated threshold"),
        "case_auroc": "no scan is normal",
    },
}


@pytest.mark.parametrize("kind", REASONS)
def test_an_undefined_metric_has_a_reason_and_no_value(kind):
    scores, body, truth = random_scan(2, body=1.0)
    truth = {"no lesion": truth & False, "all lesion": truth | True}.get(kind, truth)
    threshold = None if kind == "no threshold" else 4.0
    rule = SearchRule(threshold=threshold, min_volume_ml=0.0, thresholds=(1.0, 2.0))
    scans = [(scores, body, truth), (scores[::-1].copy(), body, truth)]
    outcome = evaluate_cases(scored(scans, rule), rule, SilentReporter(), resamples=5)
    assert tuple(outcome.metrics) == METRICS
    undefined = {name: one.reason for name, one in outcome.metrics.items() if one.value is None}
    assert undefined == REASONS[kind]
    assert all(outcome.metrics[name].interval is None for name in undefined)
    empty = {name for name, (x, _) in outcome.curves.items() if x.size == 0}
    areas = {"roc", "precision_recall", "pro"} if "pro" in undefined else set()
    assert empty == areas | ({"froc"} if kind == "no lesion" else set())


def test_scans_without_body_or_finite_scores_are_refused():
    scores, body, truth = random_scan(2)
    with pytest.raises(InputError, match="at least one voxel"):
        score_case(scores, body & False, truth, UNIT, RULE, "1")
    scores[body] = np.nan
    with pytest.raises(InputError, match="must have a finite score"):
        count_scores(scores, body, Lesions.of(truth))


def test_a_case_score_is_that_of_the_body():
    """Independent of the scores outside of the body."""
    scores, body, truth = random_scan(3)
    scores[~body] += 50.0
    (case,) = scored([(scores, body, truth)])
    assert case.case_score == case_score(scores[body]) <= np.ptp(scores[body])


def test_thinned_scores_come_close(monkeypatch):
    """Continuous scores of a small lesion in much normal body, with a hundredth of the scores."""
    generator = np.random.default_rng(7)
    shape = (40, 50, 50)
    scans = []
    for _ in range(3):
        truth = np.zeros(shape, dtype=bool)
        truth[10:14, 10:15, 10:15] = truth[30:32, 30, 30:33] = True
        scores = generator.normal(size=shape) + 2.5 * truth
        scans.append((scores.astype(np.float32), np.ones(shape, dtype=bool), truth))
    exact, whole = tally_of(scans)
    monkeypatch.setattr(voxel_metrics, "MAX_SCORES", 2000)
    thinned, few = tally_of(scans)
    assert few.scores.size <= 2000 < whole.scores.size
    assert not few.exact
    for counted in (thinned, exact):
        assert counted.normal.sum() == 3 * (40 * 50 * 50 - 106)
        assert counted.lesion.sum() == 3 * 106
        assert counted.lesions == pytest.approx(6)
    for metric in (voxel_metrics.auroc, voxel_metrics.average_precision, voxel_metrics.pro):
        assert metric(thinned) == pytest.approx(metric(exact), abs=2e-3)
    assert voxel_metrics.best_dice(thinned)[0] == pytest.approx(
        voxel_metrics.best_dice(exact)[0], abs=2e-3
    )


def test_scans_of_one_patient_are_drawn_together():
    patients = ["b", "a", "b", "c", "a", "d"]
    weights = np.array(list(patient_weights(patients, 400, seed=3)))
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3, 5]].sum(axis=1) == 4).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.15)
    again = np.array(list(patient_weights(patients, 400, seed=3)))
    assert (weights == again).all()
    assert (weights != np.array(list(patient_weights(patients, 400, seed=4)))).any()


def test_an_interval_has_the_middle_95_percent_of_the_usable_resamples():
    assert interval([], 10) is None
    assert interval([0.5] * 4, 10) is None
    found = interval(list(range(101)), 150)
    assert (found.low, found.high) == pytest.approx((2.5, 97.5))
    assert found.resamples == 101


def test_intervals_are_those_of_resamples_by_hand():
    scans = [random_scan(seed, lesions=0.1 if seed < 3 else 0.0) for seed in range(5)]
    patients = ["a", "b", "c", "a", "b"]
    outcome = evaluate_cases(
        scored(scans, patients=patients), RULE, SilentReporter(), resamples=100, seed=1
    )
    aurocs, rates = [], []
    for weights in patient_weights(patients, 100, seed=1):
        times = zip(scans, weights.astype(int).tolist(), strict=True)
        drawn = [scan for scan, count in times for _ in range(count)]
        scores, truth, _ = pooled(drawn)
        aurocs.append(pairs_auroc(scores, truth))
        normal = [scan[0][scan[1]] for scan in drawn if not scan[2].any()]
        if normal:  # patient c alone has no normal scan
            rates.append(np.mean(np.concatenate(normal) >= RULE.threshold))
    assert outcome.resamples == 100 > len(rates)
    for name, by_hand in (("voxel_auroc", aurocs), ("false_positive_rate", rates)):
        found = outcome.metrics[name].interval
        assert (found.low, found.high) == pytest.approx(np.quantile(by_hand, [0.025, 0.975]))
        assert found.resamples == len(by_hand)


def test_one_patient_has_no_interval():
    scans = [random_scan(1), random_scan(2)]
    outcome = evaluate_cases(
        scored(scans, patients=["a", "a"]), RULE, SilentReporter(), resamples=50
    )
    metric = outcome.metrics["voxel_auroc"]
    assert metric.value is not None
    assert (metric.interval, metric.reason) == (None, "an interval needs two patients")
    assert outcome.resamples == 0


def test_one_patient_of_a_kind_has_no_interval():
    """All resamples have the same lesions, so that a narrow interval would be misleading."""
    ill, well = [random_scan(seed, lesions=0.1) for seed in range(2)], []
    for seed in range(2):
        well.append(random_scan(7 + seed, lesions=0.0))
    outcome = evaluate_cases(scored([ill[0], *well]), RULE, SilentReporter(), resamples=9)
    having = {name for name, one in outcome.metrics.items() if one.interval is not None}
    assert having == {"false_positive_rate", "false_findings_per_scan"}
    reason = outcome.metrics["pro"].reason
    assert reason == "an interval needs two patients with a lesion"
    outcome = evaluate_cases(scored([*ill, well[0]]), RULE, SilentReporter(), resamples=9)
    lacking = {name: one.reason for name, one in outcome.metrics.items() if one.interval is None}
    assert lacking == dict.fromkeys(
        ("false_positive_rate", "case_auroc"), "an interval needs two patients with a normal scan"
    )


def test_resamples_that_leave_a_metric_undefined_are_left_out_and_counted():
    scans = [random_scan(seed, lesions=0.1 if seed < 2 else 0.0) for seed in range(4)]
    outcome = evaluate_cases(scored(scans), RULE, SilentReporter(), resamples=60, seed=2)
    weights = np.array(list(patient_weights(list("0123"), 60, 2)))
    ill, well = weights[:, :2].any(axis=1), weights[:, 2:].any(axis=1)
    assert np.sum(ill & well) < 60
    assert outcome.metrics["case_auroc"].interval.resamples == np.sum(ill & well)
    assert outcome.metrics["pro"].interval.resamples == np.sum(ill)
    assert outcome.metrics["false_positive_rate"].interval.resamples == np.sum(well)
    assert outcome.metrics["false_findings_per_scan"].interval.resamples == 60


def test_evaluation_reports_progress_and_can_be_cancelled():
    class Stopping(SilentReporter):
        reported = ()

        def progress(self, done, total, unit):
            self.reported = (*self.reported, (done, total, unit))

        def check_cancelled(self):
            if len(self.reported) == 2:
                raise Cancelled

    report = Stopping()
    with pytest.raises(Cancelled):
        evaluate_cases(scored([random_scan(1), random_scan(2)]), RULE, report, resamples=9)
    assert report.reported == ((1, 9, "resample"), (2, 9, "resample"))


def test_touching_voxels_are_one_lesion():
    """All masks of 2×2×2 voxels are one lesion; two apart are two."""
    for places in combinations_with_replacement(range(8), 2):
        truth = np.zeros((2, 2, 2), dtype=bool)
        truth.ravel()[list(places)] = True
        assert Lesions.of(truth).count == 1
    truth = np.zeros((1, 1, 5), dtype=bool)
    truth[..., [0, 1, 4]] = True
    lesions = Lesions.of(truth)
    assert (lesions.voxels.tolist(), lesions.lesion.tolist()) == ([0, 1, 4], [0, 0, 1])
    assert lesions.sizes.tolist() == [2, 1]
