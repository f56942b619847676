"""Statistics against scipy, published tables, hand values, and the coverage of simulated experiments."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl import stats


@given(seeds=st.integers(1, 9), tasks=st.integers(1, 30), seed=st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_iqm_is_scipys_trimmed_mean(seeds: int, tasks: int, seed: int) -> None:
    scores = np.random.default_rng(seed).standard_cauchy((seeds, tasks))
    np.testing.assert_allclose(stats.iqm(scores), scipy.stats.trim_mean(scores, 0.25, axis=None), rtol=1e-12)


def test_iqm_by_hand() -> None:
    assert stats.iqm([[0.0, 1.0], [2.0, 300.0]]) == 1.5
    assert stats.iqm([[5.0]]) == 5.0
    assert stats.iqm([[3.0, 1.0, 2.0]]) == 2.0  # a quarter of three is none
    assert stats.iqm([[9, 1, 2, 3, 4, 5, 6, 1000]]) == (3 + 4 + 5 + 6) / 4
    assert stats.mean([[1.0, 2.0], [3.0, 6.0]]) == 3.0


def test_iqm_and_mean_act_on_the_last_two_axes() -> None:
    many = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    for statistic in (stats.iqm, stats.mean):
        looped = [[statistic(many[i, j]) for j in range(3)] for i in range(4)]
        np.testing.assert_allclose(statistic(many), looped, rtol=1e-12)


def experiments(
    count: int, seeds: int, tasks: int, effects: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [count, seeds, tasks] of known mean 0, and what each experiment's interval should cover [count]."""
    seed, task, noise = effects
    seed_effect = seed * rng.normal(size=(count, seeds, 1))
    scores = seed_effect + task * rng.normal(size=(count, 1, tasks)) + noise * rng.normal(size=(count, seeds, tasks))
    # With one seed the question is how this very seed does on other tasks.
    return scores, np.zeros(count) if seeds > 1 else seed_effect[:, 0, 0]


def coverage(scores: np.ndarray, truth: np.ndarray) -> float:
    found = [stats.interval(matrix, resamples=200, seed=i) for i, matrix in enumerate(scores)]
    return float(np.mean([i.low <= value <= i.high for i, value in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("shape", [(5, 40), (10, 40), (1, 100)])
@pytest.mark.parametrize("effects", [(1.0, 1.0, 1.0), (0.5, 1.0, 0.5), (1.0, 0.2, 1.0)])
def test_interval_covers_as_often_as_it_says(shape: tuple[int, int], effects: tuple[float, float, float]) -> None:
    scores, truth = experiments(400, *shape, effects, np.random.default_rng(3))
    assert 0.92 <= coverage(scores, truth) <= 0.98


def test_pooling_seeds_and_tasks_covers_far_too_rarely() -> None:
    scores, truth = experiments(200, 5, 40, (1.0, 1.0, 1.0), np.random.default_rng(4))
    assert coverage(scores.reshape(200, 1, 200), truth) < 0.6


@pytest.mark.parametrize("shape", [(8, 7), (8, 1), (1, 8)], ids=["equal tasks", "one task", "one seed"])
def test_interval_of_independent_scores_matches_students_t(shape: tuple[int, int]) -> None:
    """Where only seeds or only tasks differ, it is the textbook's, up to the shape and noise of the bootstrap."""
    drawn = np.random.default_rng(5).normal(size=8)
    scores = np.broadcast_to(drawn if shape[0] == 1 else drawn[:, None], shape)
    found = stats.interval(scores, stats.mean, resamples=20_000, seed=0)
    expected = scipy.stats.t.interval(0.95, 7, drawn.mean(), scipy.stats.sem(drawn))
    assert found.high - found.low == pytest.approx(expected[1] - expected[0], rel=0.08)
    assert found.estimate == pytest.approx(drawn.mean())


def test_components_of_variance_recover_the_analysis_of_variance() -> None:
    """For the mean the bootstrap components are exact in expectation: compare with mean squares."""
    matrix = experiments(1, 6, 15, (1.0, 0.7, 2.0), np.random.default_rng(6))[0][0]
    rows, columns = matrix.mean(1, keepdims=True), matrix.mean(0, keepdims=True)
    of_rows, of_columns = rows.var(ddof=1) / 6, columns.var(ddof=1) / 15
    of_cells = matrix.var() / 90
    of_noise = ((matrix - rows - columns + matrix.mean()) ** 2).sum() / (5 * 14) / 90
    variance, freedom = stats._crossed(of_rows, of_columns, of_cells, (6, 15), 14.0)
    assert variance == pytest.approx(of_rows + of_columns - of_noise)
    assert freedom == pytest.approx(variance**2 / (of_rows**2 / 5 + of_columns**2 / 14 + of_noise**2 / 70))


def test_interval_says_what_it_is_over() -> None:
    scores = np.random.default_rng(7).normal(size=(3, 8))
    assert stats.interval(scores, seed=0).over == "seeds and tasks"
    assert stats.interval(scores[:1], seed=0).over == "tasks"
    assert stats.interval(scores[:, :1], seed=0).over == "seeds"


def test_statistics_that_are_one_of_a_single_task_or_seed_have_one_interval() -> None:
    """With one task the mean over seeds is all there is to a median over tasks or a worst decile."""
    scores = np.random.default_rng(26).exponential(size=(20, 1))
    same = [stats.interval(scores, one, seed=0) for one in (stats.mean, stats.median, stats.worst_decile)]
    assert same[0] == same[1] == same[2] and same[0].over == "seeds"
    assert same[0].low < same[0].estimate < same[0].high
    of_tasks = [stats.interval(scores.T, one, seed=0) for one in (stats.mean, stats.median, stats.worst_decile)]
    assert of_tasks[0][:3] == pytest.approx(same[0][:3]) and of_tasks[0].over == "tasks"
    assert len({one.estimate for one in of_tasks}) == 3  # of twenty tasks they are not the same
    assert of_tasks[2].low < of_tasks[2].estimate < of_tasks[2].high


def test_interval_is_reproducible_ordered_and_wider_at_a_higher_level() -> None:
    scores = np.random.default_rng(8).normal(size=(5, 9))
    first = stats.interval(scores, seed=1)
    assert first == stats.interval(scores.tolist(), seed=1) != stats.interval(scores, seed=2)
    wide = stats.interval(scores, level=0.99, seed=1)
    assert wide.low < first.low < first.estimate < first.high < wide.high


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_skewed_interval_only_gets_wider_with_its_level(sign: float) -> None:
    scores = sign * np.random.default_rng(0).exponential(size=(1, 21)) ** 3
    found = [stats.interval(scores, stats.worst_decile, level=level) for level in (0.9, 0.99, 0.999, 0.9999, 0.99999)]
    for narrow, wide in itertools.pairwise(found):
        assert wide.low <= narrow.low < narrow.high <= wide.high, (narrow, wide)


def test_interval_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(9).normal(size=(4, 10))
    whole = stats.interval(scores, seed=0)
    monkeypatch.setattr(stats, "_CELLS", 4000)
    pieces = stats.interval(scores, seed=0)
    assert pieces.high - pieces.low == pytest.approx(whole.high - whole.low, rel=0.1)  # other draws, same law


def test_equal_scores_have_no_width() -> None:
    constant = np.full((5, 6), 3.0)
    assert stats.interval(constant, seed=0) == (3.0, 3.0, 3.0, "seeds and tasks")
    scores = np.random.default_rng(10).normal(size=(5, 6))
    assert stats.paired_interval(scores, scores, seed=0) == (0.0, 0.0, 0.0, "seeds and tasks")
    assert stats.probability_of_improvement(scores, scores) == 0.5
    assert stats.share_worse(scores, scores) == 0.0


def test_pairing_separates_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(11)
    base = experiments(1, 5, 40, (1.0, 1.0, 0.0), rng)[0][0]
    better = base + 0.2 + 0.1 * rng.normal(size=base.shape)
    alone = stats.interval(base, seed=0), stats.interval(better, seed=0)
    assert alone[1].low < alone[0].high
    assert stats.paired_interval(better, base, seed=0).low > 0.1


def test_share_worse_by_hand() -> None:
    before, after = [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.9], [1.0, 5.0]]
    assert stats.share_worse(before, after) == 0.5
    assert stats.share_worse(before, after, margin=0.5) == 0.25
    assert stats.share_worse(before, after, margin=1.0) == 0.0  # a loss of exactly the margin does not count


def test_probability_of_improvement_is_mann_whitneys() -> None:
    rng = np.random.default_rng(12)
    a, b = rng.integers(0, 4, (5, 7)), rng.integers(0, 3, (6, 7))
    expected = np.mean([scipy.stats.mannwhitneyu(a[:, t], b[:, t]).statistic / 30 for t in range(7)])
    assert stats.probability_of_improvement(a, b) == pytest.approx(expected)
    assert stats.probability_of_improvement(a + 100, b) == 1.0


def test_median_is_over_tasks_of_the_mean_over_seeds() -> None:
    scores = [[0.0, 10.0, 4.0], [2.0, 30.0, 6.0]]  # means 1, 20, 5
    assert stats.median(scores) == 5.0
    many = np.random.default_rng(13).normal(size=(4, 5, 8))
    # the counterpart in scipy: a trimmed mean that leaves the two middle tasks
    expected = [scipy.stats.trim_mean(one.mean(0), 3 / 8) for one in many]
    np.testing.assert_allclose(stats.median(many), expected, rtol=1e-12)


def test_worst_decile_by_hand() -> None:
    scores = np.arange(40.0).reshape(2, 20)  # two tasks of each seed: (0 + 1) / 2 and (20 + 21) / 2
    assert stats.worst_decile(scores[:, ::-1]) == 10.5
    assert stats.worst_decile([[3.0, 1.0], [0.0, 4.0]]) == 0.5  # each seed has a worst task of its own
    assert stats.worst_decile(np.arange(11.0)[None]) == 0.5  # a tenth of eleven is rounded up to two
    stacked = np.stack((scores, scores + 1.0))
    np.testing.assert_allclose(stats.worst_decile(stacked), [10.5, 11.5])


def test_optimality_gap_by_hand() -> None:
    assert stats.optimality_gap([[0.5, 2.0], [1.0, -1.0]]) == (0.5 + 0.0 + 0.0 + 2.0) / 4
    assert stats.optimality_gap([[0.5, 0.25]], target=0.5) == 0.125
    scores = np.random.default_rng(14).uniform(-1, 2, size=(5, 7))
    assert stats.optimality_gap(scores) == pytest.approx(1.0 - np.minimum(scores, 1.0).mean())  # as rliable has it


def test_normalized_scores_have_a_scale_for_every_task() -> None:
    scores = [[0.0, 5.0], [10.0, 9.0]]
    np.testing.assert_allclose(stats.normalize(scores, [0.0, 1.0], [10.0, 9.0]), [[0.0, 0.5], [1.0, 1.0]])
    np.testing.assert_allclose(stats.normalize(scores, 0.0, 10.0), np.array(scores) / 10.0)


def test_performance_profile_is_one_minus_scipys_empirical_distribution() -> None:
    scores = np.random.default_rng(15).normal(size=(4, 30))
    points = np.linspace(-1.5, 1.5, 9)
    found = stats.performance_profile(scores, points, resamples=100, seed=0)
    np.testing.assert_allclose(found.share, scipy.stats.ecdf(scores.ravel()).sf.evaluate(points), rtol=1e-12)
    assert (np.diff(found.share) <= 0.0).all()
    assert ((found.low >= 0.0) & (found.low <= found.share) & (found.share <= found.high) & (found.high <= 1.0)).all()
    one = stats.interval(scores > points[3], stats.mean, resamples=100, seed=0)
    assert (found.low[3], found.high[3]) == (one.low, one.high)
    assert stats.performance_profile([[1.0, 2.0]], [1.0], resamples=100, seed=0).share == [0.5]  # above, not at


def test_cost_to_reach_by_hand() -> None:
    curve, cost = [1.0, float("nan"), 4.0, 3.0], [10.0, 20.0, 30.0, 40.0]
    assert stats.cost_to_reach(curve, cost, 4.0) == 30.0
    assert stats.cost_to_reach(curve, cost, -5.0) == 10.0
    assert stats.cost_to_reach(curve, cost, 5.0) == np.inf
    np.testing.assert_array_equal(stats.cost_to_reach([curve, curve[::-1]], cost, 3.0), [30.0, 10.0])


def gap(scores: np.ndarray) -> np.ndarray:
    """The optimality gap to a target in the middle of the scores below."""
    return np.asarray(stats.optimality_gap(scores, target=0.0))


def above(scores: np.ndarray) -> np.ndarray:
    """One point of a performance profile."""
    return np.asarray((scores > 0.5).mean((-2, -1)))


@pytest.mark.parametrize(
    ("statistic", "effects", "shape"),
    [
        (stats.median, (0.5, 1.0, 0.5), (10, 50)),
        (gap, (0.5, 1.0, 0.5), (10, 50)),
        (above, (0.5, 1.0, 0.5), (10, 50)),
        (stats.worst_decile, (0.5, 1.0, 0.5), (10, 50)),
        (stats.worst_decile, (0.2, 2.0, 0.5), (10, 100)),
    ],
)
def test_intervals_of_the_other_statistics_cover_as_often_as_they_say(
    statistic: stats.Statistic, effects: tuple[float, float, float], shape: tuple[int, int]
) -> None:
    """95 %, give or take 2 % and the 1 % that 400 experiments leave to chance."""
    rng = np.random.default_rng(16)
    truth = float(np.mean(statistic(experiments(4000, *shape, effects, rng)[0])))
    scores, _ = experiments(400, *shape, effects, rng)
    found = [stats.interval(matrix, statistic, resamples=200, seed=i) for i, matrix in enumerate(scores)]
    share = float(np.mean([one.low <= truth <= one.high for one in found]))
    assert 0.93 - 0.01 <= share <= 0.97 + 0.01


def test_a_tails_interval_reaches_further_down(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = experiments(1, 5, 60, (0.2, 1.0, 0.5), np.random.default_rng(21))[0][0]
    found = stats.interval(scores, stats.worst_decile, seed=0)
    monkeypatch.setattr(stats, "_accelerated", lambda levels, influence, variance: levels)
    plain = stats.interval(scores, stats.worst_decile, seed=0)
    assert found.low < plain.low - 0.01 and found.high < plain.high - 0.01


def test_a_tails_interval_knows_how_few_tasks_it_rests_on() -> None:
    scores = np.random.default_rng(18).normal(size=(1, 100))
    of_mean, of_tail = (stats._influence(scores, one) for one in (stats.mean, stats.worst_decile))
    np.testing.assert_allclose(of_mean, (scores[0] - scores.mean()) / 100, atol=1e-12)  # a mean's, by hand
    assert stats._freedom(of_mean) > 60.0 and stats._freedom(of_tail) < 25.0
    assert stats._freedom(np.eye(9)[0] - 1 / 9) < 3.0  # one of nine tasks is all
    assert stats._freedom(np.zeros(9)) == 8.0
    # an exponential's mean: third moment twice the variance to the 3/2; the influence of n tasks is 1/n of them
    drawn = np.random.default_rng(19).exponential(size=(1, 4000))
    influence = stats._influence(drawn, stats.mean)
    low, high = stats._accelerated((0.025, 0.975), influence, 1.0 / 4000)
    a = 2.0 / (6.0 * 4000**0.5)
    expected = scipy.stats.norm.cdf([-1.96 / (1.0 + 1.96 * a), 1.96 / (1.0 - 1.96 * a)])
    np.testing.assert_allclose([low, high], expected, rtol=0.01)
    assert low > 0.025 and high > 0.975  # a tail to the right: further to the right
    assert stats._accelerated((0.025, 0.975), influence, 0.0) == [0.025, 0.975]


def test_few_tasks_do_not_tell_how_their_tail_varies() -> None:
    """A tenth of ten tasks is their worst: redrawn it is never worse, so that its interval begins at the estimate."""
    rng, covered = np.random.default_rng(27), []
    truth = float(rng.normal(size=(100_000, 10)).min(1).mean())
    for i, scores in enumerate(rng.normal(size=(200, 1, 10))):
        found = stats.interval(scores, stats.worst_decile, resamples=200, seed=i)
        assert found.low == found.estimate
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) < 0.6


def test_a_stratified_bootstrap_covers_far_too_rarely_where_runs_are_scored_on_all_tasks() -> None:
    """Redrawing runs within each task, as for runs that are one task's own, leaves out the luck of whole runs."""
    rng, tasks = np.random.default_rng(17), np.arange(40)
    covered = []
    for matrix in experiments(200, 5, 40, (1.0, 1.0, 1.0), rng)[0]:
        draws = matrix[rng.integers(5, size=(200, 5, 40)), tasks].mean((1, 2))
        covered.append(np.quantile(draws, 0.025) <= 0.0 <= np.quantile(draws, 0.975))
    assert np.mean(covered) < 0.6


def test_a_stratified_interval_is_that_of_the_runs_of_every_task() -> None:
    """Of the mean it is known: runs are redrawn within tasks, so that only their variance within tasks counts."""
    scores = np.random.default_rng(22).normal(size=(8, 30)) + 5.0 * np.arange(30)
    found = stats.stratified_interval(scores, stats.mean, resamples=20_000, seed=0)
    spread = np.sqrt((scores.var(0) / 8).sum()) / 30
    expected = scores.mean() + spread * scipy.stats.norm.ppf([0.025, 0.975])
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.08 * spread)
    assert (found.estimate, found.over) == (pytest.approx(scores.mean()), "seeds")
    wide = stats.stratified_interval(scores, stats.iqm, level=0.99, seed=1)
    usual = stats.stratified_interval(scores, stats.iqm, seed=1)
    assert wide.low < usual.low < usual.estimate < usual.high < wide.high


def test_a_sample_efficiency_curve_has_the_interval_of_every_point() -> None:
    scores = experiments(3, 5, 12, (1.0, 1.0, 1.0), np.random.default_rng(23))[0].transpose(1, 2, 0)
    for statistic in (stats.iqm, stats.worst_decile):
        found = stats.sample_efficiency(scores, statistic, resamples=200, seed=4)
        for k in range(3):
            one = stats.interval(scores[..., k], statistic, resamples=200, seed=4)
            assert (found.low[k], found.high[k], found.estimate[k]) == one[:3]
    assert stats.sample_efficiency(scores, stats.iqm, seed=0).estimate.tolist() == [
        stats.iqm(scores[..., k]) for k in range(3)
    ]
    alone = stats.sample_efficiency([[[1.0, 4.0]]], stats.mean, seed=0)
    assert [ends.tolist() for ends in alone] == [[1.0, 4.0]] * 3


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_interval_of_an_improvement_covers_as_often_as_it_says(shift: float) -> None:
    """Two rules, the first better by a multiple of the differences' spread, so that it wins in Phi(shift)."""
    rng, covered, estimates = np.random.default_rng(24), [], []
    truth = float(scipy.stats.norm.cdf(shift))
    for i in range(400):  # tasks are common to both, seeds and noise are not
        tasks = rng.normal(size=(1, 60))
        a, b = (0.5 * rng.normal(size=(5, 1)) + tasks + 0.5 * rng.normal(size=(5, 60)) for _ in range(2))
        found = stats.improvement_interval(a + shift, b, resamples=200, seed=i)  # the spread is 2 * 0.25 + 2 * 0.25
        assert found.estimate == pytest.approx(stats.probability_of_improvement(a + shift, b))
        assert 0.0 <= found.low <= found.estimate <= found.high <= 1.0
        covered.append(found.low <= truth <= found.high)
        estimates.append(found.estimate)
    assert np.mean(estimates) == pytest.approx(truth, abs=0.02)
    assert 0.93 - 0.01 <= np.mean(covered) <= 0.97 + 0.01


def test_a_sure_improvement_is_no_more_than_sure() -> None:
    scores = np.random.default_rng(25).normal(size=(4, 6))
    assert stats.improvement_interval(scores + 100.0, scores, seed=0)[:3] == (1.0, 1.0, 1.0)
    near = stats.improvement_interval(scores + 1.0, scores, seed=0)
    assert 0.0 <= near.low <= near.estimate <= near.high <= 1.0


PUBLISHED = json.loads((Path(__file__).parent / "atari_100k.json").read_text())


@pytest.mark.parametrize("agent", ["IRIS", "DIAMOND"])
def test_aggregates_are_those_that_papers_print(agent: str) -> None:
    """Two tables of Atari 100k, from the authors' raw scores: 26 games, 5 runs, normalised from random to human."""
    scores = np.array(list(PUBLISHED[agent]["scores"].values())).T
    floor, ceiling = (np.array(list(PUBLISHED[name].values())) for name in ("random", "human"))
    normalised = stats.normalize(scores, floor, ceiling)
    kinds = {"mean": stats.mean, "median": stats.median, "IQM": stats.iqm, "optimality gap": stats.optimality_gap}
    found = {name: round(float(kind(normalised)), 3) for name, kind in kinds.items()}
    assert found == PUBLISHED[agent]["printed"]


def test_aggregates_are_those_of_rliables_own_tests() -> None:
    x, y = [[1, 2], [2, 2], [1, 1], [2, 1]], [[1, 1], [2, 2], [3, 3]]
    for statistic in (stats.mean, stats.median, stats.iqm):
        assert (statistic(x), statistic(y)) == (1.5, 2.0)
    assert stats.probability_of_improvement(x, y) == pytest.approx(1 / 3)


GOOD = np.random.default_rng(0).normal(size=(3, 4))


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.iqm([1.0, 2.0]),
        lambda: stats.iqm(np.zeros((0, 3))),
        lambda: stats.iqm([[1.0, float("nan")]]),
        lambda: stats.mean([[1.0, float("inf")]]),
        lambda: stats.iqm([[1.0], [1.0, 2.0]]),
        lambda: stats.iqm([["a", "b"]]),
        lambda: stats.interval(np.zeros((2, 3, 4)), seed=0),
        lambda: stats.interval([[1.0]], seed=0),
        lambda: stats.interval(np.where(GOOD > 0, GOOD, np.nan), seed=0),
        lambda: stats.interval(GOOD, level=1.0, seed=0),
        lambda: stats.interval(GOOD, level=float("nan"), seed=0),
        lambda: stats.interval(GOOD, resamples=0, seed=0),
        lambda: stats.interval(GOOD, np.mean),  # type: ignore[arg-type]
        lambda: stats.interval(GOOD, "mean"),  # type: ignore[arg-type]
        lambda: stats.paired_interval(GOOD, GOOD[:2], seed=0),
        lambda: stats.stratified_interval(GOOD[:1], seed=0),
        lambda: stats.stratified_interval(GOOD, level=0.0, seed=0),
        lambda: stats.stratified_interval(GOOD, resamples=10, seed=0),
        lambda: stats.sample_efficiency(GOOD, seed=0),
        lambda: stats.improvement_interval(GOOD, GOOD[:2], seed=0),
        lambda: stats.share_worse(GOOD, GOOD.T),
        lambda: stats.share_worse(GOOD, GOOD, margin=-1.0),
        lambda: stats.probability_of_improvement(GOOD, GOOD[:, :2]),
        lambda: stats.median([1.0, 2.0]),
        lambda: stats.worst_decile([[1.0, float("nan")]]),
        lambda: stats.optimality_gap([[float("inf")]]),
        lambda: stats.normalize(GOOD, [0.0, 1.0], 2.0),
        lambda: stats.normalize(GOOD, 1.0, 1.0),
        lambda: stats.normalize(GOOD, 0.0, float("nan")),
        lambda: stats.performance_profile(GOOD, [], seed=0),
        lambda: stats.performance_profile(GOOD, [[0.0]], seed=0),
        lambda: stats.performance_profile(GOOD, [float("nan")], seed=0),
        lambda: stats.cost_to_reach([], [], 0.0),
        lambda: stats.cost_to_reach([1.0, 2.0], [1.0, 2.0, 3.0], 0.0),
    ],
)
def test_bad_input_is_refused_in_one_line(call: object) -> None:
    with pytest.raises(ValueError, match="expected .*got .*; ") as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
