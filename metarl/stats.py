"""Statistics over meta-training seeds and held-out tasks: point estimates and honest intervals.

A result is a matrix ``scores [seeds, tasks]``: every seed (one independent meta-training run) is scored on the *same*
held-out tasks. Both are samples, of runs and of tasks, and they cross::

    score[s, t] = mean + seed[s] + task[t] + noise[s, t],    Var(average) = A + B + E
    A = Var(seed) / S,    B = Var(task) / T,    E = Var(noise) / (S T)

Pooling the S T numbers as if independent leaves out nearly all of A and B, and its intervals are far too narrow. The
pigeonhole bootstrap (Owen 2007, arXiv:0712.1111) resamples seeds and, independently, tasks; it estimates A + B + 3 E
up to (S - 1) / S and (T - 1) / T, so it is too wide when noise dominates and too narrow with few seeds. Here the
three components are told apart as in a two-way analysis of variance, with the bootstrap in place of mean squares so
that any statistic can be used: resampling seeds alone gives ``R = A + E``, tasks alone ``C = B + E``, and all cells
``P``, where ``S T P = (S - 1) R + (T - 1) C + (S - 1)(T - 1) E``. The pigeonhole percentiles keep their
shape but are rescaled about the estimate to the variance ``R + C - E``, and widened by Student's t over the normal
quantile at Satterthwaite's (1946) degrees of freedom, in the spirit of Hesterberg's (2015, arXiv:1411.5279) expanded
percentile interval. A nominal 95% interval then covers 94 to 97% with 5 seeds and normal effects, more where noise is
all there is, and about 88% where the effects of 5 seeds are as skewed as an exponential. With fewer seeds it covers too
little: 93% with 4, 91% with 3, 88% with 2.

A statistic of a tail, such as :func:`worst_decile`, rests on few tasks and is worse known than so many tasks suggest.
The jackknife's influence of every task tells: its kurtosis sets the freedom of C, its skewness moves the quantiles
(Efron 1987). The worst decile of 100 tasks with normal effects is then covered in 94 to 96% instead of 88 to 95%, of 50
tasks, whose tail is five, in 92 to 95%; of effects as skewed as an exponential in 88 to 90% instead of 82 to 86%. For
means and the like it changes next to nothing. Fewer tasks do not tell how their tail varies: of 20, whose tail is two,
it is covered in 89% with 5 seeds and in 72% with one, of 10 and fewer, whose tail is a single task, in 81 and 47%.

The other statistics are those of Agarwal et al. (2021, arXiv:2108.13264), except the worst decile. Their stratified
bootstrap (:func:`stratified_interval`) redraws runs within each task: it takes tasks as given, and the runs of one task
as independent of the next one's. Here a run's luck is common to all tasks, and that would leave out nearly all of A and
all of B, so that nothing in this project's tables rests on it; it is there to compare with papers that use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Array = NDArray[np.float64]
Statistic = Callable[[Array], Any]
"""Takes ``[..., seeds, tasks]`` to ``[...]``; :func:`iqm` and :func:`mean` are two."""

_CELLS = 2_000_000  # numbers held at once by a bootstrap, 16 MB


class Interval(NamedTuple):
    """A confidence interval, its estimate, and what was resampled to get it."""

    low: float
    high: float
    estimate: float
    over: Literal["seeds and tasks", "tasks", "seeds"]


def iqm(scores: ArrayLike) -> Any:
    """Interquartile mean: the mean of all seed-task scores without the lowest and the highest quarter.

    Equals ``scipy.stats.trim_mean(scores, 0.25, axis=None)`` for one matrix.

    Args:
        scores: ``[..., seeds, tasks]``, to ``[...]``; one matrix to a scalar.

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
    """Mean over seeds and tasks, ``[..., seeds, tasks]`` to ``[...]``. Raises as :func:`iqm` does."""
    return _finite(scores, "scores").mean((-2, -1))


def median(scores: ArrayLike) -> Any:
    """Median over tasks of the mean over seeds, ``[..., seeds, tasks]`` to ``[...]``. Raises as :func:`iqm` does."""
    return np.median(_finite(scores, "scores").mean(-2), axis=-1)


def worst_decile(scores: ArrayLike) -> Any:
    """Mean of the worst tenth of the tasks (rounded up) of each seed, then over seeds; raises as :func:`iqm` does.

    Every seed has worst tasks of its own, as the user of one trained learner would meet them.

    >>> float(worst_decile([[5.0, 1.0, 9.0], [5.0, 9.0, 3.0]]))  # one task of three: (1 + 3) / 2
    2.0
    """
    array = _finite(scores, "scores")
    count = -(-array.shape[-1] // 10)
    return np.partition(array, count - 1, axis=-1)[..., :count].mean((-2, -1))


def optimality_gap(scores: ArrayLike, *, target: float = 1.0) -> Any:
    """How far normalised scores fall short of ``target`` on average; better ones count as it. Lower is better.

    Takes ``[..., seeds, tasks]``, as :func:`normalize` gives them, to ``[...]``. Raises as :func:`iqm` does.
    """
    return np.maximum(target - _finite(scores, "scores"), 0.0).mean((-2, -1))


def normalize(scores: ArrayLike, floor: ArrayLike, ceiling: ArrayLike) -> Array:
    """Each task's scores on the scale of that task: 0 at its floor, 1 at its ceiling; not clipped.

    Args:
        scores: ``[..., seeds, tasks]``.
        floor: ``[tasks]`` or one number, in units of the score: what doing nothing is worth.
        ceiling: ``[tasks]`` or one number: what the best possible policy is worth.

    Raises:
        ValueError: references of another shape or not above each other, or as for :func:`iqm`.
    """
    array = _finite(scores, "scores")
    low, high = np.asarray(floor, dtype=np.float64), np.asarray(ceiling, dtype=np.float64)
    if any(reference.shape not in {(), array.shape[-1:]} for reference in (low, high)):
        raise ValueError(f"expected references [{array.shape[-1]}], got {low.shape} and {high.shape}; one a task")
    if not (np.isfinite(high - low).all() and (high > low).all()):
        raise ValueError(
            f"expected every ceiling above its floor, got {high - low} between them; leave those tasks out"
        )
    return (array - low) / (high - low)


def interval(
    scores: ArrayLike, statistic: Statistic = iqm, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Confidence interval of a statistic over seeds and tasks; the module docstring derives it.

    With one seed nothing is known about other seeds: the interval is over tasks and says so (one task: over seeds).
    When all scores are equal the width is zero, which then says how little was tried and not how much is known.

    Args:
        scores: ``[seeds, tasks]``, every seed scored on the same tasks in the same order.
        statistic: takes ``[..., seeds, tasks]`` to ``[...]``.
        level: nominal coverage, between 0 and 1.
        resamples: bootstrap draws of each kind, at least 100.
        seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: scores that are no finite matrix or a single number, or an argument out of range.
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
    """Interval of the statistic of the differences ``a - b``, cell by cell.

    What both share (a hard task, a common seed) cancels, so this separates methods that two intervals cannot. Note that
    the IQM of differences is not the difference of IQMs.

    Args:
        a: ``[seeds, tasks]``.
        b: ``[seeds, tasks]``, the same seeds and tasks in the same order.
        statistic: as for :func:`interval`, like ``level``, ``resamples`` and ``seed``.
        level: nominal coverage.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: shapes that differ, or as for :func:`interval`.
    """
    left, right = _same(a, b, "a", "b")
    return interval(left - right, statistic, level=level, resamples=resamples, seed=seed)


def stratified_interval(
    scores: ArrayLike, statistic: Statistic = iqm, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile interval of the stratified bootstrap of Agarwal et al. (2021), as in their library ``rliable``.

    Runs are redrawn within every task, so that it says how the statistic *of these tasks* varies where every task had
    runs of its own. For one learner scored on many tasks it is far too narrow: use :func:`interval`.

    Args:
        scores: ``[runs, tasks]``.
        statistic: as for :func:`interval`, like ``level``, ``resamples`` and ``seed``.
        level: nominal coverage.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: a single run, or as for :func:`interval`.
    """
    matrix = _matrix(scores, "scores")
    if len(matrix) < 2:
        raise ValueError(f"expected at least two runs to redraw, got {list(matrix.shape)}; use interval over tasks")
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
    """A statistic along a curve, and pointwise confidence intervals of it; ``[points]`` each."""

    estimate: Array
    low: Array
    high: Array


def sample_efficiency(
    scores: ArrayLike, statistic: Statistic = iqm, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Curve:
    """The statistic after every amount of experience, with :func:`interval`'s intervals.

    What the amounts are, such as gradient steps, episodes, environment steps or seconds, only matters to who draws it.

    Args:
        scores: ``[seeds, tasks, points]``; a single seed and task has no width.
        statistic: as for :func:`interval`, like ``level``, ``resamples`` and ``seed``.
        level: nominal coverage.
        resamples: bootstrap draws.
        seed: of the bootstrap, the same at every point.

    Raises:
        ValueError: scores of another shape, or as for :func:`interval`.
    """
    array = _finite(scores, "scores")
    if array.ndim != 3:
        raise ValueError(f"expected scores [seeds, tasks, points], got {list(array.shape)}; a point is scores[..., k]")
    points = np.moveaxis(array, -1, 0)
    if array.shape[:2] == (1, 1):
        alone = np.array([float(statistic(point)) for point in points])
        return Curve(alone, alone, alone)
    found = [interval(point, statistic, level=level, resamples=resamples, seed=seed) for point in points]
    return Curve(*(np.array([getattr(one, name) for one in found]) for name in Curve._fields))


def share_worse(before: ArrayLike, after: ArrayLike, *, margin: float = 0.0) -> float:
    """Share of seed-task pairs whose score fell by more than ``margin`` through adapting.

    Noise alone makes half of the pairs "worse" where adapting does nothing: set the margin to what matters.

    Args:
        before: ``[seeds, tasks]`` before adapting.
        after: ``[seeds, tasks]`` after adapting, the same seeds and tasks in the same order.
        margin: the smallest loss that counts, in units of the score; not negative.

    Raises:
        ValueError: shapes that differ, scores that are not finite, or a negative margin.
    """
    if not 0.0 <= margin < np.inf:
        raise ValueError(f"expected a margin of 0 or more, got {margin}; give it in units of the score")
    first, second = _same(before, after, "before", "after")
    return float((second < first - margin).mean())


class Profile(NamedTuple):
    """The share of scores above each threshold, and pointwise confidence intervals of it; ``[thresholds]`` each."""

    share: Array
    low: Array
    high: Array


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, *, level: float = 0.95, resamples: int = 500, seed: int = 0
) -> Profile:
    """Share of seed-task pairs that score more than each of ``thresholds [N]``, with :func:`interval`'s intervals.

    Takes ``[seeds, tasks]``. Raises as :func:`interval` does, or for thresholds that are no finite vector.
    """
    matrix, points = _matrix(scores, "scores"), np.asarray(thresholds, dtype=np.float64)
    if points.ndim != 1 or not points.size or not np.isfinite(points).all():
        raise ValueError(f"expected thresholds [N], finite, got {list(points.shape)}; give np.linspace(0, 1, 21)")
    found = [interval(matrix > point, mean, level=level, resamples=resamples, seed=seed) for point in points]
    low, high, share = (np.clip(ends, 0.0, 1.0) for ends in np.array([one[:3] for one in found]).T)
    return Profile(share, low, high)


def cost_to_reach(scores: ArrayLike, cost: ArrayLike, target: float) -> Array:
    """The cost at which each curve ``[..., points]`` first scores ``target``, ``[...]``; infinite where it never does.

    The cost (environment steps, ...) is broadcast to the scores, of which a NaN has reached nothing. Raises ValueError
    for curves without points and for shapes that do not fit.
    """
    try:
        curve, paid = np.broadcast_arrays(np.asarray(scores, np.float64), np.asarray(cost, np.float64))
    except ValueError as error:
        raise ValueError(f"expected a cost for every point, got {_short(error)}; give them one shape") from error
    if not curve.ndim or not curve.shape[-1]:
        raise ValueError(f"expected scores [..., points], got {list(curve.shape)}; give a curve")
    there = curve >= target
    first = np.take_along_axis(paid, there.argmax(-1)[..., None], -1)[..., 0]
    return np.where(there.any(-1), first, np.inf)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Probability that a random seed of ``a`` beats a random seed of ``b`` on a task, averaged over tasks.

    Mann and Whitney's U over the number of pairs; a tie counts one half, so identical arrays give 0.5.

    Args:
        a: ``[seeds of a, tasks]``.
        b: ``[seeds of b, tasks]``, the same tasks in the same order.

    Raises:
        ValueError: different numbers of tasks, or scores that are not finite.
    """
    left, right = _matrix(a, "a"), _matrix(b, "b")
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"expected the same tasks in a and b, got {left.shape[1]} and {right.shape[1]}; pair them")
    pooled = stats.rankdata(np.concatenate((left, right)), axis=0)
    wins = pooled[: len(left)].sum(0) - len(left) * (len(left) + 1) / 2.0
    return float((wins / (len(left) * len(right))).mean())


def improvement_interval(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval of :func:`probability_of_improvement` over seeds and tasks.

    The probability is the mean of placements: how often ``a[s, t]`` beats the runs of ``b`` on the task, and how often
    the runs of ``a`` beat ``b[s, t]``. Both move with the seed s (DeLong et al. 1988), and their sum, centred to keep
    the mean, is what :func:`interval` is applied to. Its ends are carried over to the scale of the log odds, where
    nothing crowds against 0 or 1: with 5 seeds it then covers in 93 to 97% instead of in 88 to 95%, up to
    probabilities of 0.85. Beyond 0.98 few pairs are left to tell a spread by: it covers in 83 to 99%, or is all of
    0 to 1.

    Args:
        a: ``[seeds, tasks]``.
        b: ``[seeds, tasks]``, the same seeds and tasks in the same order.
        level: as for :func:`interval`, like ``resamples`` and ``seed``.
        resamples: bootstrap draws.
        seed: of the bootstrap.

    Raises:
        ValueError: shapes that differ, or as for :func:`interval`.
    """
    left, right = _same(a, b, "a", "b")
    wins = 0.5 + 0.5 * np.sign(left[:, None] - right[None])  # [seeds of a, seeds of b, tasks]
    placed = wins.mean(1) + wins.mean(0) - wins.mean((0, 1))
    found = interval(placed, mean, level=level, resamples=resamples, seed=seed)
    share = found.estimate
    if not 0.0 < share < 1.0:  # nothing but wins, or none: all placements are alike, and the width is zero
        return found
    odds, slope = special.logit(share), share * (1.0 - share)
    low, high = (float(special.expit(odds + (end - share) / slope)) for end in found[:2])
    return found._replace(low=low, high=high)


def _check_bootstrap(statistic: Statistic, matrix: Array, level: float, resamples: int) -> None:
    """Refuses a statistic of one matrix alone, and a coverage or a number of draws that gives no interval."""
    if not callable(statistic) or np.shape(statistic(matrix[None])) != (1,):
        name = getattr(statistic, "__name__", repr(statistic))
        raise ValueError(f"expected a statistic of scores [..., seeds, tasks] to [...], got {name}; stats.mean is one")
    if not 0.0 < level < 1.0:
        raise ValueError(f"expected a level between 0 and 1, got {level}; use 0.95")
    if resamples < 100:
        raise ValueError(f"expected at least 100 resamples, got {resamples}; 2000 is usual")


def _draws(
    rng: np.random.Generator, shape: tuple[int, ...], resamples: int, over_seeds: bool, over_tasks: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Chunks of row indices ``[chunk, seeds]`` and column indices ``[chunk, tasks]``."""
    seeds, tasks = shape
    at_once = max(1, _CELLS // (seeds * tasks))
    for start in range(0, resamples, at_once):
        chunk = min(at_once, resamples - start)
        rows = rng.integers(seeds, size=(chunk, seeds)) if over_seeds else np.arange(seeds)[None]
        columns = rng.integers(tasks, size=(chunk, tasks)) if over_tasks else np.arange(tasks)[None]
        yield rows, columns


def _bootstrap_cells(rng: np.random.Generator, matrix: Array, statistic: Statistic, resamples: int) -> Array:
    """The statistic of all cells resampled as if independent, ``[resamples]``."""
    flat = matrix.reshape(-1)
    draws = _draws(rng, (1, flat.size), resamples, False, True)
    values = [statistic(flat[cells].reshape(len(cells), *matrix.shape)) for _, cells in draws]
    return np.concatenate([np.asarray(value, dtype=np.float64) for value in values])


def _influence(matrix: Array, statistic: Statistic, axis: int = 1) -> Array:
    """How far each of T tasks (seeds: axis 0) moves the statistic, ``[T]``: the jackknife's values, of sum 0."""
    count = matrix.shape[axis]
    left_out = np.array([float(statistic(np.delete(matrix, one, axis=axis))) for one in range(count)])
    influence: Array = (left_out.mean() - left_out) * (count - 1) / count
    return influence


def _freedom(influence: Array) -> float:
    """Degrees of freedom of a variance over T tasks: T - 1, or fewer where it rests on few of them.

    From T numbers of kurtosis k it is known as well as from 2 T / (k - 1) normal ones. All but a tail's own tasks have
    next to no influence on it, so that its k is large.
    """
    most, square = len(influence) - 1.0, float((influence**2).mean())
    if square <= 0.0:
        return most
    excess = float((influence**4).mean()) / square**2 - 1.0
    return max(1.0, min(most, 2.0 * len(influence) / max(excess, 1e-9)))


def _accelerated(levels: tuple[float, float], influence: Array, variance: float) -> list[float]:
    """Efron's (1987) quantile levels for a statistic whose spread grows with it, by the skewness of the influence.

    The part of his "better bootstrap confidence intervals" that a tail needs: a sample without its extreme tasks has
    both a tail that is too good and too small a spread.
    """
    if variance <= 0.0:
        return list(levels)
    acceleration = float(np.clip((influence**3).sum() / (6.0 * variance**1.5), -0.25, 0.25))
    z = special.ndtri(np.asarray(levels))
    return [float(level) for level in special.ndtr(z / (1.0 - acceleration * z))]


def _crossed(
    rows: float, columns: float, cells: float, shape: tuple[int, int], task_freedom: float
) -> tuple[float, float]:
    """Variance ``R + C - E`` and Satterthwaite's degrees of freedom, from the unbiased R and C and the raw P.

    ``task_freedom`` is how well C is known; `_freedom`.
    """
    seed_freedom, tasks_less_one = shape[0] - 1, shape[1] - 1
    noise_freedom = seed_freedom * tasks_less_one
    noise = (shape[0] * shape[1] * cells - seed_freedom * rows - tasks_less_one * columns) / noise_freedom
    noise = min(max(noise, 0.0), rows, columns)  # no component of variance is negative
    variance = rows + columns - noise
    if variance <= 0.0:
        return 0.0, float(seed_freedom)
    spread = rows**2 / seed_freedom + columns**2 / task_freedom + noise**2 / noise_freedom
    return variance, variance**2 / spread


def _finite(scores: ArrayLike, name: str) -> Array:
    """Scores as ``[..., seeds, tasks]`` float64, or one line saying what is wrong with them."""
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected {name} [seeds, tasks] of numbers, got {_short(error)}; fill the gaps") from error
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"expected {name} [seeds, tasks], got {list(array.shape)}; one seed is scores[None, :]")
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ValueError(f"expected finite {name}, got {bad} NaN or infinite of {array.size}; find those runs")
    return array


def _short(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).split("\n", 1)[0]


def _matrix(scores: ArrayLike, name: str) -> Array:
    """Scores as a finite matrix ``[seeds, tasks]``."""
    array = _finite(scores, name)
    if array.ndim != 2:
        raise ValueError(f"expected {name} [seeds, tasks], got {list(array.shape)}; choose a step: scores[..., -1]")
    return array


def _same(a: ArrayLike, b: ArrayLike, first: str, second: str) -> tuple[Array, Array]:
    """Two finite matrices of one shape."""
    left, right = _matrix(a, first), _matrix(b, second)
    if left.shape != right.shape:
        raise ValueError(
            f"expected the same seeds and tasks, got {first} {list(left.shape)} and {second} {list(right.shape)}; "
            "score both on the same tasks"
        )
    return left, right
