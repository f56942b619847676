"""Statistics over meta-training seeds and held-out tasks: point estimates and confidence intervals.

A result is a matrix ``scores [seeds, tasks]``: every seed (one independent meta-training run) is scored on the *same*
held-out tasks. Seeds and tasks are both random samples, and they are crossed::

    score[s, t] = mean + seed[s] + task[t] + noise[s, t],    Var(average) = A + B + E
    A = Var(seed) / S,    B = Var(task) / T,    E = Var(noise) / (S T)

Pooling the S T numbers as if they were independent ignores nearly all of A and B, and gives intervals that are far too
narrow. The pigeonhole bootstrap (Owen 2007, arXiv:0712.1111) resamples seeds and, independently, tasks. It estimates
A + B + 3 E up to factors (S - 1) / S and (T - 1) / T, and is therefore too wide when noise dominates and too narrow
with few seeds.

:func:`interval` estimates the three components separately, as a two-way analysis of variance does, but from bootstrap
variances instead of mean squares, so that any statistic can be used. Resampling only seeds gives ``R = A + E``, only
tasks ``C = B + E``, and all cells ``P``, where ``S T P = (S - 1) R + (T - 1) C + (S - 1)(T - 1) E``. The percentiles of
the pigeonhole bootstrap are rescaled about the estimate to the variance ``R + C - E``, and widened by the ratio of
Student's t quantile to the normal quantile, with Satterthwaite's (1946) degrees of freedom, in the spirit of
Hesterberg's (2015, arXiv:1411.5279) expanded percentile interval.

A nominal 95% interval then covers 94 to 97% with 5 seeds and normal effects, more if there is nothing but noise, and
about 88% if the effects of 5 seeds are as skewed as an exponential distribution. With fewer seeds the coverage is too
low: 93% with 4, 91% with 3, 88% with 2.

A statistic of a tail, such as :func:`worst_decile`, depends on few tasks and is less certain than the total number of
tasks suggests. The jackknife influence of each task corrects for that: its kurtosis determines the degrees of freedom
of C, and its skewness shifts the quantiles (Efron 1987). The worst decile of 100 tasks with normal effects is then
covered in 94 to 96% of cases instead of 88 to 95%, that of 50 tasks (a tail of five) in 92 to 95%, and with effects as
skewed as an exponential distribution in 88 to 90% instead of 82 to 86%. For means and similar statistics this changes
next to nothing. Fewer tasks do not reveal how much their tail varies: with 20 tasks (a tail of two) the coverage is 89%
with 5 seeds and 72% with one; with 10 tasks or fewer (a tail of one) it is 81% and 47%.

The other statistics are those of Agarwal et al. (2021, arXiv:2108.13264), except the worst decile. Their stratified
bootstrap (:func:`stratified_interval`) resamples runs within each task. It treats tasks as fixed, and runs on different
tasks as independent. Here a seed affects the scores on all tasks, so the stratified bootstrap ignores nearly all of A
and all of B. None of this project's tables uses it; it is provided for comparison with papers that do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Array = NDArray[np.float64]
Statistic = Callable[[Array], Any]
"""Maps ``[..., seeds, tasks]`` to ``[...]``, such as :func:`iqm` and :func:`mean`."""

_CELLS = 2_000_000  # numbers held in memory at once by a bootstrap, 16 MB


class Interval(NamedTuple):
    """A confidence interval, the point estimate, and what was resampled."""

    low: float
    high: float
    estimate: float
    over: Literal["seeds and tasks", "tasks", "seeds"]


def iqm(scores: ArrayLike) -> Any:
    """Return the interquartile mean: the mean of all seed-task scores without the lowest and the highest quarter.

    For one matrix this equals ``scipy.stats.trim_mean(scores, 0.25, axis=None)``.

    Args:
        scores: ``[..., seeds, tasks]``; the result is ``[...]``, a scalar for one matrix.

    Raises:
        ValueError: fewer than two dimensions, no scores, or a number that is not finite.

    >>> float(iqm([[0.0, 1.0], [2.0, 300.0]]))
    1.5
    """
    array = _finite(scores, "scores")
    pooled = array.reshape(*array.shape[:-2], -1)
    cut = pooled.shape[-1] // 4
    last = pooled.shape[-1] - cut
    return np.partition(pooled, (cut, last - 1), axis=-1)[..., cut:last].mean(-1)


def mean(scores: ArrayLike) -> Any:
    """Return the mean over seeds and tasks, ``[..., seeds, tasks]`` to ``[...]``. Raises the errors of :func:`iqm`."""
    return _finite(scores, "scores").mean((-2, -1))


def median(scores: ArrayLike) -> Any:
    """Return the median over tasks of the mean over seeds, ``[..., seeds, tasks]`` to ``[...]``.

    Raises the errors of :func:`iqm`.
    """
    return np.median(_finite(scores, "scores").mean(-2), axis=-1)


def worst_decile(scores: ArrayLike) -> Any:
    """Return the mean of each seed's worst tenth of the tasks (rounded up), averaged over seeds.

    The worst tasks may differ between seeds, as a user has only one trained learner. Raises the errors of :func:`iqm`.

    >>> float(worst_decile([[5.0, 1.0, 9.0], [5.0, 9.0, 3.0]]))  # one task of three: (1 + 3) / 2
    2.0
    """
    array = _finite(scores, "scores")
    count = -(-array.shape[-1] // 10)
    return np.partition(array, count - 1, axis=-1)[..., :count].mean((-2, -1))


def optimality_gap(scores: ArrayLike, *, target: float = 1.0) -> Any:
    """Return how far normalised scores fall short of ``target`` on average. Lower is better.

    Scores above the target count as zero shortfall. Maps ``[..., seeds, tasks]``, as returned by :func:`normalize`, to
    ``[...]``. Raises the errors of :func:`iqm`.
    """
    return np.maximum(target - _finite(scores, "scores"), 0.0).mean((-2, -1))


def normalize(scores: ArrayLike, floor: ArrayLike, ceiling: ArrayLike) -> Array:
    """Return scores rescaled per task so that 0 is the task's floor and 1 its ceiling; not clipped.

    Args:
        scores: ``[..., seeds, tasks]``.
        floor: ``[tasks]`` or one number, in units of the score: the score of doing nothing.
        ceiling: ``[tasks]`` or one number: the score of the best possible policy.

    Raises:
        ValueError: floor or ceiling of another shape, a ceiling not above its floor, or as for :func:`iqm`.
    """
    array = _finite(scores, "scores")
    low, high = np.asarray(floor, dtype=np.float64), np.asarray(ceiling, dtype=np.float64)
    if any(reference.shape not in {(), array.shape[-1:]} for reference in (low, high)):
        raise ValueError(f"expected references [{array.shape[-1]}], got {low.shape} and {high.shape}; one per task")
    if not (np.isfinite(high - low).all() and (high > low).all()):
        raise ValueError(
            f"expected every ceiling above its floor, got {high - low} between them; leave those tasks out"
        )
    return (array - low) / (high - low)


def interval(
    scores: ArrayLike, statistic: Statistic = iqm, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return a confidence interval of a statistic over seeds and tasks; the module docstring derives it.

    With a single seed nothing is known about the variation between seeds: the interval is then over tasks only, which
    its field ``over`` reports (with a single task it is over seeds). If all scores are equal, the width is zero; this
    means that too little was tried, not that the statistic is known exactly.

    Args:
        scores: ``[seeds, tasks]``, every seed scored on the same tasks in the same order.
        statistic: maps ``[..., seeds, tasks]`` to ``[...]``.
        level: nominal coverage, between 0 and 1.
        resamples: bootstrap draws of each kind, at least 100.
        seed: seed of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: scores that are not a finite matrix or only a single number, or an argument out of range.
    """
    matrix = _matrix(scores, "scores")
    if matrix.size < 2:
        raise ValueError(f"expected at least two seeds or two tasks, got {list(matrix.shape)}; evaluate more tasks")
    _check_bootstrap(statistic, matrix, level, resamples)
    seeds, tasks = matrix.shape
    rng = np.random.default_rng(seed)

    def bootstrap(over_seeds: bool, over_tasks: bool) -> Array:
        return np.concatenate([
            np.asarray(statistic(matrix[rows[:, :, None], columns[:, None, :]]), dtype=np.float64)
            for rows, columns in _draws(rng, matrix.shape, resamples, over_seeds, over_tasks)
        ])  # fmt: skip

    estimate, influence = float(statistic(matrix)), _influence(matrix, statistic, 1 if tasks > 1 else 0)
    both = bootstrap(seeds > 1, tasks > 1)
    if seeds > 1 and tasks > 1:
        rows = bootstrap(True, False).var() * seeds / (seeds - 1)
        columns = bootstrap(False, True).var() * tasks / (tasks - 1)
        cells = _bootstrap_cells(rng, matrix, statistic, resamples).var()
        variance, freedom = _crossed(rows, columns, cells, matrix.shape, _freedom(influence))
    else:
        variance, freedom = both.var() * matrix.size / (matrix.size - 1), _freedom(influence)
    tail = (1.0 - level) / 2.0
    widen = special.stdtrit(freedom, tail) / special.ndtri(tail)
    spread = both.std()
    scale = float(np.sqrt(variance) / spread * widen) if spread > 0.0 else 0.0
    levels = _accelerated((tail, 1.0 - tail), influence, variance)
    low, high = (estimate + scale * (float(np.quantile(both, q)) - estimate) for q in levels)
    over: Literal["seeds and tasks", "tasks", "seeds"] = "seeds and tasks"
    if seeds == 1 or tasks == 1:
        over = "tasks" if seeds == 1 else "seeds"
    return Interval(low, high, estimate, over)


def paired_interval(
    a: ArrayLike, b: ArrayLike, statistic: Statistic = iqm, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the interval of a statistic of the differences ``a - b``, paired by seed and task.

    Effects that both share (a hard task, a common seed) cancel, so that a paired interval can separate methods whose
    individual intervals overlap. The IQM of differences is not the difference of IQMs.

    Args:
        a: ``[seeds, tasks]``.
        b: ``[seeds, tasks]``, the same seeds and tasks in the same order.
        statistic: as for :func:`interval`, like ``level``, ``resamples`` and ``seed``.
        level: nominal coverage.
        resamples: bootstrap draws.
        seed: seed of the bootstrap.

    Raises:
        ValueError: shapes that differ, or as for :func:`interval`.
    """
    left, right = _same(a, b, "a", "b")
    return interval(left - right, statistic, level=level, resamples=resamples, seed=seed)


def stratified_interval(
    scores: ArrayLike, statistic: Statistic = iqm, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the percentile interval of the stratified bootstrap of Agarwal et al. (2021), as in ``rliable``.

    Runs are resampled within every task. The interval thus describes how the statistic *of these tasks* varies if every
    task has separate runs. If each learner is scored on many tasks, it is far too narrow: use :func:`interval`.

    Args:
        scores: ``[runs, tasks]``.
        statistic: as for :func:`interval`, like ``level``, ``resamples`` and ``seed``.
        level: nominal coverage.
        resamples: bootstrap draws.
        seed: seed of the bootstrap.

    Raises:
        ValueError: a single run, or as for :func:`interval`.
    """
    matrix = _matrix(scores, "scores")
    if len(matrix) < 2:
        raise ValueError(f"expected at least two runs to resample, got {list(matrix.shape)}; use interval instead")
    _check_bootstrap(statistic, matrix, level, resamples)
    rng, columns = np.random.default_rng(seed), np.arange(matrix.shape[1])
    at_once = max(1, _CELLS // matrix.size)
    drawn = []
    for start in range(0, resamples, at_once):
        rows = rng.integers(len(matrix), size=(min(at_once, resamples - start), *matrix.shape))
        drawn.append(np.asarray(statistic(matrix[rows, columns]), dtype=np.float64))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(drawn), [tail, 1.0 - tail])
    return Interval(float(low), float(high), float(statistic(matrix)), "seeds")


class Curve(NamedTuple):
    """A statistic at every point of a curve with pointwise confidence intervals; each field is ``[points]``."""

    estimate: Array
    low: Array
    high: Array


def sample_efficiency(
    scores: ArrayLike, statistic: Statistic = iqm, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Curve:
    """Return the statistic after increasing amounts of experience, with pointwise intervals of :func:`interval`.

    The unit of the points, such as gradient steps, episodes, environment steps or seconds, does not matter here.

    Args:
        scores: ``[seeds, tasks, points]``; with a single seed and a single task the intervals have zero width.
        statistic: as for :func:`interval`, like ``level``, ``resamples`` and ``seed``.
        level: nominal coverage.
        resamples: bootstrap draws.
        seed: seed of the bootstrap, the same at every point.

    Raises:
        ValueError: scores of another shape, or as for :func:`interval`.
    """
    array = _finite(scores, "scores")
    if array.ndim != 3:
        raise ValueError(
            f"expected scores [seeds, tasks, points], got {list(array.shape)}; one point is scores[..., k]"
        )
    points = np.moveaxis(array, -1, 0)
    if array.shape[:2] == (1, 1):
        alone = np.array([float(statistic(point)) for point in points])
        return Curve(alone, alone, alone)
    found = [interval(point, statistic, level=level, resamples=resamples, seed=seed) for point in points]
    return Curve(*(np.array([getattr(one, name) for one in found]) for name in Curve._fields))


def share_worse(before: ArrayLike, after: ArrayLike, *, margin: float = 0.0) -> float:
    """Return the share of seed-task pairs whose score fell by more than ``margin`` through adapting.

    If adapting has no effect, noise alone makes half of the pairs "worse": set the margin to the smallest relevant
    loss.

    Args:
        before: ``[seeds, tasks]`` before adapting.
        after: ``[seeds, tasks]`` after adapting, the same seeds and tasks in the same order.
        margin: only larger losses count, in units of the score; not negative.

    Raises:
        ValueError: shapes that differ, scores that are not finite, or a negative margin.
    """
    if not 0.0 <= margin < np.inf:
        raise ValueError(f"expected a margin of 0 or more, got {margin}; give it in units of the score")
    first, second = _same(before, after, "before", "after")
    return float((second < first - margin).mean())


class Profile(NamedTuple):
    """The share of scores above each threshold with pointwise confidence intervals; each field is ``[thresholds]``."""

    share: Array
    low: Array
    high: Array


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, *, level: float = 0.95, resamples: int = 500, seed: int = 0
) -> Profile:
    """Return the share of seed-task pairs that score above each threshold, with the intervals of :func:`interval`.

    Args:
        scores: ``[seeds, tasks]``.
        thresholds: ``[N]``.
        level: as for :func:`interval`, like ``resamples`` and ``seed``.
        resamples: bootstrap draws.
        seed: seed of the bootstrap.

    Raises:
        ValueError: thresholds that are not a finite vector, or as for :func:`interval`.
    """
    matrix, points = _matrix(scores, "scores"), np.asarray(thresholds, dtype=np.float64)
    if points.ndim != 1 or not points.size or not np.isfinite(points).all():
        raise ValueError(
            f"expected thresholds [N], finite, got {list(points.shape)}; for example np.linspace(0, 1, 21)"
        )
    found = [interval(matrix > point, mean, level=level, resamples=resamples, seed=seed) for point in points]
    low, high, share = (np.clip(ends, 0.0, 1.0) for ends in np.array([one[:3] for one in found]).T)
    return Profile(share, low, high)


def cost_to_reach(scores: ArrayLike, cost: ArrayLike, target: float) -> Array:
    """Return the cost at which each curve ``[..., points]`` first reaches ``target``, ``[...]``; infinity if never.

    The cost (such as environment steps) broadcasts to the scores. A NaN score never reaches the target.

    Raises:
        ValueError: curves without points, or shapes that do not broadcast.
    """
    try:
        curve, paid = np.broadcast_arrays(np.asarray(scores, np.float64), np.asarray(cost, np.float64))
    except ValueError as error:
        raise ValueError(f"expected a cost for every point, got {_short(error)}; make their shapes match") from error
    if not curve.ndim or not curve.shape[-1]:
        raise ValueError(f"expected scores [..., points], got {list(curve.shape)}; give at least one point")
    there = curve >= target
    first = np.take_along_axis(paid, there.argmax(-1)[..., None], -1)[..., 0]
    return np.where(there.any(-1), first, np.inf)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Return the probability that a random seed of ``a`` beats a random seed of ``b`` on a task, averaged over tasks.

    On each task it is Mann and Whitney's U divided by the number of pairs. A tie counts one half, so that identical
    arrays give 0.5.

    Args:
        a: ``[seeds of a, tasks]``.
        b: ``[seeds of b, tasks]``, the same tasks in the same order.

    Raises:
        ValueError: different numbers of tasks, or scores that are not finite.
    """
    left, right = _matrix(a, "a"), _matrix(b, "b")
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"expected the same tasks in a and b, got {left.shape[1]} and {right.shape[1]}; use the same in both"
        )
    pooled = stats.rankdata(np.concatenate((left, right)), axis=0)
    wins = pooled[: len(left)].sum(0) - len(left) * (len(left) + 1) / 2.0
    return float((wins / (len(left) * len(right))).mean())


def improvement_interval(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the interval of :func:`probability_of_improvement` over seeds and tasks.

    The probability is a mean of placements: how often ``a[s, t]`` beats the runs of ``b`` on the task, and how often
    the runs of ``a`` beat ``b[s, t]``. Both depend on the seed s (DeLong et al. 1988). :func:`interval` is applied to
    their sum, centred so that its mean is the probability. The ends of the interval are then transformed to the scale
    of log odds, which 0 and 1 do not bound. With 5 seeds and probabilities up to 0.85 this covers in 93 to 97% of
    cases, instead of 88 to 95%. Beyond 0.98 too few pairs are left to estimate a spread: the coverage is 83 to 99%, or
    the interval is the whole range from 0 to 1.

    Args:
        a: ``[seeds, tasks]``.
        b: ``[seeds, tasks]``, the same seeds and tasks in the same order.
        level: as for :func:`interval`, like ``resamples`` and ``seed``.
        resamples: bootstrap draws.
        seed: seed of the bootstrap.

    Raises:
        ValueError: shapes that differ, or as for :func:`interval`.
    """
    left, right = _same(a, b, "a", "b")
    wins = 0.5 + 0.5 * np.sign(left[:, None] - right[None])  # [seeds of a, seeds of b, tasks]
    placed = wins.mean(1) + wins.mean(0) - wins.mean((0, 1))
    found = interval(placed, mean, level=level, resamples=resamples, seed=seed)
    share = found.estimate
    if not 0.0 < share < 1.0:  # only wins or only losses: all placements are equal, and the width is zero
        return found
    odds, slope = special.logit(share), share * (1.0 - share)
    low, high = (float(special.expit(odds + (end - share) / slope)) for end in found[:2])
    return found._replace(low=low, high=high)


def _check_bootstrap(statistic: Statistic, matrix: Array, level: float, resamples: int) -> None:
    """Reject a statistic without leading dimensions, and a level or number of resamples that gives no interval."""
    if not callable(statistic) or np.shape(statistic(matrix[None])) != (1,):
        name = getattr(statistic, "__name__", repr(statistic))
        raise ValueError(f"expected a statistic that maps [..., seeds, tasks] to [...], got {name}; try stats.mean")
    if not 0.0 < level < 1.0:
        raise ValueError(f"expected a level between 0 and 1, got {level}; use 0.95")
    if resamples < 100:
        raise ValueError(f"expected at least 100 resamples, got {resamples}; 2000 is usual")


def _draws(
    rng: np.random.Generator, shape: tuple[int, ...], resamples: int, over_seeds: bool, over_tasks: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield chunks of row indices ``[chunk, seeds]`` and column indices ``[chunk, tasks]``."""
    seeds, tasks = shape
    at_once = max(1, _CELLS // (seeds * tasks))
    for start in range(0, resamples, at_once):
        chunk = min(at_once, resamples - start)
        rows = rng.integers(seeds, size=(chunk, seeds)) if over_seeds else np.arange(seeds)[None]
        columns = rng.integers(tasks, size=(chunk, tasks)) if over_tasks else np.arange(tasks)[None]
        yield rows, columns


def _bootstrap_cells(rng: np.random.Generator, matrix: Array, statistic: Statistic, resamples: int) -> Array:
    """Return the statistic of all cells resampled as if they were independent, ``[resamples]``."""
    flat = matrix.reshape(-1)
    draws = _draws(rng, (1, flat.size), resamples, False, True)
    values = [statistic(flat[cells].reshape(len(cells), *matrix.shape)) for _, cells in draws]
    return np.concatenate([np.asarray(value, dtype=np.float64) for value in values])


def _influence(matrix: Array, statistic: Statistic, axis: int = 1) -> Array:
    """Return the jackknife influence of each of T tasks (of each seed with axis 0) on the statistic, ``[T]``; sum 0."""
    count = matrix.shape[axis]
    left_out = np.array([float(statistic(np.delete(matrix, one, axis=axis))) for one in range(count)])
    influence: Array = (left_out.mean() - left_out) * (count - 1) / count
    return influence


def _freedom(influence: Array) -> float:
    """Return the degrees of freedom of a variance over T tasks: T - 1, or fewer if it depends on few of them.

    T numbers of kurtosis k determine a variance as well as 2 T / (k - 1) normal ones. For a statistic of a tail, only
    the tasks in the tail have much influence, so that k is large.
    """
    most, square = len(influence) - 1.0, float((influence**2).mean())
    if square <= 0.0:
        return most
    excess = float((influence**4).mean()) / square**2 - 1.0
    return max(1.0, min(most, 2.0 * len(influence) / max(excess, 1e-9)))


def _accelerated(levels: tuple[float, float], influence: Array, variance: float) -> list[float]:
    """Return Efron's (1987) accelerated quantile levels, computed from the skewness of the influence.

    Acceleration corrects for a spread that depends on the value of the statistic. Tail statistics need it: a sample
    without extreme tasks has both a tail that is too good and too small a spread.
    """
    if variance <= 0.0:
        return list(levels)
    acceleration = float(np.clip((influence**3).sum() / (6.0 * variance**1.5), -0.25, 0.25))
    z = special.ndtri(np.asarray(levels))
    below = np.maximum(1.0 - acceleration * z, 1e-3)  # it would be 0 or less at very high levels: use the limit there
    return [float(level) for level in special.ndtr(z / below)]


def _crossed(
    rows: float, columns: float, cells: float, shape: tuple[int, int], task_freedom: float
) -> tuple[float, float]:
    """Return the variance ``R + C - E`` and its Satterthwaite degrees of freedom, from the unbiased R and C and raw P.

    ``task_freedom`` is the degrees of freedom of C; see `_freedom`.
    """
    seed_freedom, tasks_less_one = shape[0] - 1, shape[1] - 1
    noise_freedom = seed_freedom * tasks_less_one
    noise = (shape[0] * shape[1] * cells - seed_freedom * rows - tasks_less_one * columns) / noise_freedom
    noise = min(max(noise, 0.0), rows, columns)  # a component of variance cannot be negative
    variance = rows + columns - noise
    if variance <= 0.0:
        return 0.0, float(seed_freedom)
    spread = rows**2 / seed_freedom + columns**2 / task_freedom + noise**2 / noise_freedom
    return variance, variance**2 / spread


def _finite(scores: ArrayLike, name: str) -> Array:
    """Return scores as ``[..., seeds, tasks]`` float64, or raise an error of one line that says what is wrong."""
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected {name} [seeds, tasks] of numbers, got {_short(error)}; fill in all scores"
        ) from error
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"expected {name} [seeds, tasks], got {list(array.shape)}; one seed is scores[None, :]")
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ValueError(f"expected finite {name}, got {bad} of {array.size} NaN or infinite; check those runs")
    return array


def _short(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).split("\n", 1)[0]


def _matrix(scores: ArrayLike, name: str) -> Array:
    """Return scores as a finite matrix ``[seeds, tasks]``."""
    array = _finite(scores, name)
    if array.ndim != 2:
        raise ValueError(f"expected {name} [seeds, tasks], got {list(array.shape)}; select a step: scores[..., -1]")
    return array


def _same(a: ArrayLike, b: ArrayLike, first: str, second: str) -> tuple[Array, Array]:
    """Return two finite matrices of the same shape."""
    left, right = _matrix(a, first), _matrix(b, second)
    if left.shape != right.shape:
        raise ValueError(
            f"expected the same seeds and tasks, got {first} {list(left.shape)} and {second} {list(right.shape)}; "
            "score both on the same tasks"
        )
    return left, right
