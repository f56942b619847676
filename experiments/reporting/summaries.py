"""Make tables and sentences from scores. All intervals are those of ``metarl.stats``, over all seeds and tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reporting import tables as t
from experiments.reporting.sources import Array, Contender, distances
from experiments.reporting.tables import Cell, Table
from metarl import stats
from metarl.stats import Interval, Statistic

SURE = 0.02  # a probability this close to 0 or 1 is shown without its interval, which would say nothing about certainty
LEAST = 50  # fewest tasks for an interval of their worst tenth: with fewer its coverage is too low; see `metarl.stats`


def interval(scores: Array, statistic: Statistic = stats.mean) -> Interval:
    """Return the statistic of scores ``[seeds, tasks]`` with its 95 % interval; its ends are NaN for a single score."""
    if scores.size < 2:
        return Interval(math.nan, math.nan, float(np.mean(statistic(scores))), "tasks")
    return stats.interval(scores, statistic, seed=0)


def tail(scores: Array) -> Interval:
    """Return the mean of the worst tenth of the tasks with its interval, whose ends are NaN below `LEAST` tasks."""
    if scores.shape[1] < LEAST:
        return Interval(math.nan, math.nan, float(stats.worst_decile(scores)), "tasks")
    return interval(scores, stats.worst_decile)


def final(contender: Contender, split: str) -> Array:
    """Return the scores ``[seeds, tasks]`` that count: after the steps of `Contender.after`."""
    return contender.scores(split)[..., contender.after(split)]


def normalized(contender: Contender, split: str, scores: Array) -> Array | None:
    """Return scores on every task's scale from floor (0) to ceiling (1), or None if a task lacks such a scale."""
    references = contender.results[split][0]["references"]
    try:
        return stats.normalize(scores, references["floor"], references["ceiling"])
    except (KeyError, ValueError):
        return None


def steps_words(contender: Contender, split: str) -> str:
    """Say when a contender's scores count: ``after one gradient step``, or ``after two episodes`` if it remembers."""
    steps, what = contender.after(split), "episode" if contender.remembers else "gradient step"
    if not steps:
        return "without adapting"
    return f"after {({1: 'one', 2: 'two', 3: 'three'}).get(steps, steps)} {what}{'s' * (steps > 1)}"


def rule_cell(contender: Contender, swatch: int | None, *, strong: bool = False) -> Cell:
    """Return a cell with a contender's label and colour."""
    return t.words(contender.label, swatch=swatch, strong=strong)


# --- one contender ----------------------------------------------------------------------------------------------


def adaptation(contender: Contender, split: str) -> Table:
    """Return a table with a row for every number of adaptation steps."""
    sampled, mode = (contender.scores(split, name) for name in ("sampled", "mode"))
    episodes, steps = (spent(contender, split, name) for name in ("episodes", "steps"))
    places = t.digits(sampled.mean((0, 1)))
    columns = (
        "gradient steps", "return, mean", "IQM", "median task", "worst tenth", "most probable action", "made worse",
        "episodes spent", "environment steps spent",
    )  # fmt: skip
    rows = []
    for k in range(sampled.shape[-1]):
        now, trained = sampled[..., k], k == contender.after(split)
        worse = t.percent(stats.share_worse(sampled[..., 0], now), decimals=1) if k else t.nothing()
        rows.append([
            Cell(str(k), float(k), strong=trained),
            t.with_interval(interval(now), places, strong=trained),
            t.with_interval(interval(now, stats.iqm), places),
            t.with_interval(interval(now, stats.median), places),
            t.with_interval(tail(now), places),
            t.figure(mode[..., k].mean(), places),
            worse,
            t.count(episodes[k]) if math.isfinite(episodes[k]) else t.nothing(),
            t.count(steps[k]),
        ])  # fmt: skip
    return Table(f"adaptation-{file_name(split)}", columns, rows)


Columns = tuple[str, ...]
Rows = list[list[Cell]]


def splits(contender: Contender, names: Sequence[str], ranges: Mapping[str, Any] | None) -> tuple[Columns, Rows]:
    """Return columns and rows of a table of held-out splits: how far from training they are, and the scores there.

    Args:
        contender: the contender.
        names: names of the splits.
        ranges: the training distributions by constant; None if they are not known.
    """
    columns = (
        "split", "tasks", "outside the training range", "before", "after", "of the best possible", "worst tenth",
        "made worse",
    )  # fmt: skip
    places = t.digits([float(final(contender, split).mean()) for split in names])
    rows = []
    for split in names:
        scores, now = contender.scores(split), final(contender, split)
        scaled = normalized(contender, split, now)
        reach = None if ranges is None else distances(ranges, contender.results[split][0]["task"])
        rows.append([
            t.words(split),
            t.count(scores.shape[1]),
            _reach_cell(reach),
            t.figure(scores[..., 0].mean(), places),
            t.with_interval(interval(now), places, strong=True),
            t.nothing() if scaled is None else t.percent(float(scaled.mean())),
            t.with_interval(tail(now), places),
            t.percent(stats.share_worse(scores[..., 0], now), decimals=1) if contender.after(split) else t.nothing(),
        ])  # fmt: skip
    return columns, rows


def _reach_cell(reach: Array | None) -> Cell:
    """Return a cell with the median and the largest distance to the training range."""
    if reach is None or not reach.size:
        return Cell("not known")
    if not reach.any():
        return Cell("within", 0.0)
    if not np.isfinite(reach).all():
        return Cell("a constant that training never varies", math.inf)
    middle, largest = float(np.median(reach)), float(reach.max())
    shown = f"{t.number(100 * middle, 0)} % (up to {t.number(100 * largest, 0)} %)"
    return Cell(shown, middle)


def effective_rates(contender: Contender) -> dict[str, Array]:
    """Return the effective step size of each adaptation step ``[K]``, median over seeds, by parameter tensor."""
    seeds = []
    for results in contender.results.values():
        told = [result["learned"] for result in results if isinstance(result.get("learned"), dict)]
        seeds = [one["effective rates"] for one in told if isinstance(one.get("effective rates"), dict)]
        if seeds:
            break
    found: dict[str, Array] = {}
    for name in seeds[0] if seeds else []:
        try:
            lines = np.array([seed[name] for seed in seeds if name in seed], dtype=np.float64)
        except (TypeError, ValueError):
            continue
        if lines.ndim == 2 and lines.size and np.isfinite(lines).all():
            found[t.clean(name)] = np.median(lines, 0)
    return found


def one_rate(rates: Mapping[str, Array]) -> float | None:
    """Return the common step size if all tensors and steps have the same, else None."""
    every = np.concatenate(list(rates.values()))
    middle = float(np.median(every))
    return middle if bool(np.all(np.abs(every - middle) <= 1e-3 * abs(middle))) else None


def rate_table(rates: Mapping[str, Array]) -> Table:
    """Return a table of learned step sizes with a row for every parameter tensor; ``rates`` are flattened."""
    columns = ("parameter tensor", "step sizes", "median", "smallest", "largest", "negative")
    rows, places = [], 4 if max(float(np.abs(values).max()) for values in rates.values()) < 1.0 else 3
    for name, values in rates.items():
        ends = [float(np.median(values)), float(values.min()), float(values.max())]
        numbers = [t.figure(end, places) for end in ends]
        share = t.percent(float((values < 0).mean()), decimals=1)
        rows.append([t.words(name.removeprefix("network.")), t.count(len(values)), *numbers, share])
    return Table("step-sizes", columns, rows)


def effective_table(rates: Mapping[str, Array]) -> tuple[Columns, Rows]:
    """Return columns and rows of a table of effective step sizes: a row per parameter tensor, a column per step."""
    longest = max(len(line) for line in rates.values())
    columns = ("parameter tensor", *(f"step {k}" for k in range(1, longest + 1)))
    rows, places = [], 4 if max(float(np.abs(line).max()) for line in rates.values()) < 1.0 else 3
    for name, line in rates.items():
        cells = [t.figure(float(value), places) for value in line]
        rows.append([t.words(name.removeprefix("network.")), *cells, *[t.nothing()] * (longest - len(line))])
    return columns, rows


def negative_share(contender: Contender) -> str:
    """Return the share of negative step sizes as text; empty if the results do not record it."""
    told = [result.get("learned") for results in contender.results.values() for result in results]
    shares = [one.get("meta/rate_negative") for one in told if isinstance(one, dict)]
    known = [share for share in shares if isinstance(share, int | float)]
    return t.percent(float(np.mean(known)), decimals=1).text if known else ""


# --- several ----------------------------------------------------------------------------------------------------


def paired(a: Contender, b: Contender, split: str) -> tuple[Array, Array] | None:
    """Return the final scores ``[seeds, tasks]`` of both on common seeds; None without any, or if tasks differ."""
    ours, theirs = a.results[split], {result["seed"]: result for result in b.results[split]}
    shared = [result for result in ours if result["seed"] in theirs]
    same = all(ours[0][name] == b.results[split][0][name] for name in ("task", "fingerprint"))
    if not shared or not same:
        return None
    left = [[row[a.after(split)] for row in result["sampled"]] for result in shared]
    right = [[row[b.after(split)] for row in theirs[result["seed"]]["sampled"]] for result in shared]
    return np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)


def differences(contenders: Sequence[Contender], reference: Contender, split: str) -> dict[str, Interval]:
    """Return intervals of the paired differences to the reference, by label."""
    found = {}
    for contender in contenders:
        pair = None if contender is reference else paired(contender, reference, split)
        if pair is not None:
            found[contender.label] = interval(pair[0] - pair[1])
    return found


def ranked(contenders: Sequence[Contender], split: str) -> list[Contender]:
    """Return the contenders by mean final score, best first."""
    return sorted(contenders, key=lambda contender: -float(final(contender, split).mean()))


def comparison(contenders: Sequence[Contender], reference: Contender, split: str, swatches: Mapping[str, int]) -> Table:
    """Return the table of a comparison with a row for every rule, the best first."""
    columns = (
        "rule", "step size", "seeds", "before", "after", "IQM", "worst tenth", "made worse",
        f"minus {t.short(reference.label)}, paired", f"beats {t.short(reference.label)}",
    )  # fmt: skip
    gains = differences(contenders, reference, split)
    places = t.digits([float(np.median(final(contender, split))) for contender in contenders])
    rows = []
    for i, contender in enumerate(ranked(contenders, split)):
        scores, now = contender.scores(split), final(contender, split)
        rate = contender.config.get("rate")
        adapts = contender.after(split) > 0
        known = isinstance(rate, int | float) and adapts
        gain = gains.get(contender.label)
        rows.append([
            rule_cell(contender, swatches.get(contender.label), strong=i == 0),
            Cell(f"{rate:g}", float(rate)) if known and rate is not None else t.nothing(),
            t.count(len(scores)),
            t.figure(scores[..., 0].mean(), places),
            t.with_interval(interval(now), places, strong=i == 0),
            t.with_interval(interval(now, stats.iqm), places),
            t.with_interval(tail(now), places),
            t.percent(stats.share_worse(scores[..., 0], now), decimals=1) if adapts else t.nothing(),
            t.nothing() if gain is None else t.with_interval(gain, places),
            beats(contender, reference, split),
        ])  # fmt: skip
    return Table("comparison", columns, rows)


def beats(contender: Contender, reference: Contender, split: str) -> Cell:
    """Return the probability of beating the reference on a task, with an interval if both have the same seeds."""
    pair = None if contender is reference else paired(contender, reference, split)
    if pair is None:
        return t.nothing()
    if pair[0].size < 2 or not len(pair[0]) == len(final(contender, split)) == len(final(reference, split)):
        return t.percent(stats.probability_of_improvement(final(contender, split), final(reference, split)))
    found = stats.improvement_interval(*pair, seed=0)
    sure = min(found.estimate, 1.0 - found.estimate) < SURE
    return t.percent(found.estimate) if sure else t.percent_with_interval(found)


def by_step(contenders: Sequence[Contender], split: str, swatches: Mapping[str, int]) -> Table:
    """Return a table of mean returns with a row for every rule and a column for every number of steps."""
    longest = max(contender.scores(split).shape[-1] for contender in contenders)
    columns = ("rule", *(("before", "after 1 step", *(f"after {k} steps" for k in range(2, longest)))[:longest]))
    places = t.digits([float(np.median(final(contender, split))) for contender in contenders])
    rows = []
    for contender in contenders:
        scores = contender.scores(split)
        cells = [
            t.with_interval(interval(scores[..., k]), places, strong=k == contender.after(split))
            for k in range(scores.shape[-1])
        ]
        rows.append(
            [rule_cell(contender, swatches.get(contender.label)), *cells, *[t.nothing()] * (longest - len(cells))]
        )
    return Table("by-step", columns, rows)


def spent(contender: Contender, split: str, name: str) -> Array:
    """Return the cost of adapting to a task ``[K + 1]``, mean over seeds and tasks; NaN if it was not recorded.

    Args:
        contender: the contender.
        split: split of the tasks.
        name: ``steps`` for environment steps, or ``episodes``.
    """
    results = contender.results[split]
    columns = len(results[0]["sampled"][0])
    try:
        told = np.asarray([result[f"adaptation_{name}"] for result in results], dtype=np.float64)
        return told.mean((0, 1)) if told.shape[2:] == (columns,) else np.full(columns, np.nan)
    except (KeyError, TypeError, ValueError):
        return np.full(columns, np.nan)


def costs(
    contenders: Sequence[Contender], split: str, statuses: Sequence[tuple[str, Mapping[str, Any]]],
    swatches: Mapping[str, int],
) -> Table:  # fmt: skip
    """Return a table of costs: of adapting to a held-out task until the score counts, and of training, per run.

    Args:
        contenders: contenders that were scored on the split, the best first.
        split: split of the tasks.
        statuses: statuses of run folders by name, used where results do not record the cost of training.
        swatches: colours by label.
    """
    columns = (
        "rule", "return", "episodes on a task", "environment steps on a task", "adaptation steps on a task",
        "training: environment steps", "iterations", "seconds",
    )  # fmt: skip
    places = t.digits([float(np.median(final(contender, split))) for contender in contenders])
    rows = []
    for contender in contenders:
        after, folders = contender.after(split), {folder.name for folder in contender.folders}
        own = [status for name, status in statuses if name in folders]
        told = []
        for name, of_run in (("training_env_steps", "env_steps"), ("iterations", "iterations"), ("seconds", "seconds")):
            number = _mean(contender.results[split], name)  # 0 for contenders that are not trained
            told.append(_mean(own, of_run) if number is None else number)
        paid = [float(spent(contender, split, name)[after]) for name in ("episodes", "steps")]
        cells = [t.count(cost) if math.isfinite(cost) else t.nothing() for cost in paid]
        cells.append(t.nothing() if contender.remembers else t.count(after))
        cells += [t.nothing() if number is None else t.count(number) for number in told]
        label = rule_cell(contender, swatches.get(contender.label))
        rows.append([label, t.figure(final(contender, split).mean(), places), *cells])
    return Table("costs", columns, rows)


def _mean(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of the numbers under a key, or None if there are none."""
    numbers = [record.get(key) for record in records]
    known = [float(one) for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
    return float(np.mean(known)) if known else None


def aggregates(contenders: Sequence[Contender], split: str, swatches: Mapping[str, int]) -> Table | None:
    """Return a table of normalised aggregates of every contender, or None if a task has no scale."""
    columns = ("rule", "mean", "IQM", "median task", "worst tenth", "optimality gap")
    rows = []
    for contender in contenders:
        scaled = normalized(contender, split, final(contender, split))
        if scaled is None:
            return None
        kinds: list[Statistic] = [stats.mean, stats.iqm, stats.median, stats.optimality_gap]
        found = [interval(scaled, kind) for kind in kinds]
        cells = [t.with_interval(one, 2) for one in (*found[:3], tail(scaled), found[3])]
        rows.append([rule_cell(contender, swatches.get(contender.label)), *cells])
    return Table("aggregates", columns, rows)


def tuning(
    trials: Sequence[Mapping[str, Any]], swatches: Mapping[str, int]
) -> tuple[Table, dict[str, tuple[Array, Array, float]]] | None:
    """Return the tuning trials of every rule as a table and as lines to draw, or None if there are none to read.

    If the meta step size was tuned, too, each of its values has a row, and the line of the chosen one is drawn.
    """
    by_row = {(t.clean(one["rule"]), _float(one.get("rate_lr"))): _tried(one) for one in trials if "rule" in one}
    grid = sorted({rate for tried, _ in by_row.values() for rate in tried})
    if not grid:
        return None
    every = [value for tried, _ in by_row.values() for value in tried.values() if math.isfinite(value)]
    places = t.digits([float(np.median(every))] if every else [0.0])
    rows, lines = [], {}
    for (rule, rate_lr), (tried, chosen) in by_row.items():
        label = rule if rate_lr is None else f"{rule}, rate_lr {rate_lr:g}"
        row = [t.words(label, swatch=swatches.get(rule)), t.count(len(tried))]
        for rate in grid:
            if rate not in tried:
                row.append(t.nothing())
            elif math.isnan(tried[rate]):
                row.append(Cell("diverged"))
            else:
                row.append(t.figure(tried[rate], places, strong=rate == chosen))
        rows.append(row)
        finite = [(rate, value) for rate, value in sorted(tried.items()) if math.isfinite(value)]
        if len(tried) > 1 and finite and (rate_lr is None or chosen is not None):
            rates, values = np.array(finite).T
            lines[rule] = (rates, values, math.nan if chosen is None else chosen)
    return Table("tuning", ("rule", "trials", *(f"{rate:g}" for rate in grid)), rows), lines


def _tried(trial: Mapping[str, Any]) -> tuple[dict[float, float], float | None]:
    """Return the validation returns by step size, NaN where training diverged, and the chosen step size."""
    told, tried = trial.get("validation return by rate"), {}
    for rate, value in told.items() if isinstance(told, dict) else ():
        if (step := _float(rate)) is not None:
            tried[step] = math.nan if (found := _float(value)) is None else found
    return tried, _float(trial.get("chosen"))


def _float(value: Any) -> float | None:
    """Return a finite number that a file holds as a number or as text, or None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


# --- sentences --------------------------------------------------------------------------------------------------


def headline(contenders: Sequence[Contender], reference: Contender, split: str) -> str:
    """Return the main finding in a sentence or two, including how certain it is."""
    best = ranked(contenders, split)[0]
    now = interval(final(best, split))
    places = t.digits(now[:3])
    if len(contenders) == 1:
        before = float(best.scores(split)[..., 0].mean())
        if not best.after(split):
            return f"It does not adapt, and returns {t.said(now, places)} on tasks it was not trained on."
        told = best.results[split][0]["protocol"].get("episodes")
        data = f" on {told} episodes" if isinstance(told, int) else ""
        shown, verb = t.number(before, places), "rises" if now.estimate > before else "falls"
        change = "stays at" if shown == t.number(now.estimate, places) else f"{verb} from {shown} to"
        return (
            f"On tasks it was not trained on, the return {change} {t.said(now, places)} "
            f"{steps_words(best, split)}{data}."
        )
    first = f"{best.label} has the highest return, {t.said(now, places)} {steps_words(best, split)}"
    second = ranked(contenders, split)[1]
    rivals = {second.label: second} | ({} if reference is best else {reference.label: reference})
    told = []
    for label, rival in rivals.items():
        pair = paired(best, rival, split)
        if pair is None:
            return f"{first}; it does not share seeds and tasks with {label}, so differences cannot be paired."
        gap = interval(pair[0] - pair[1])
        sure = "includes zero: may be chance" if gap.low <= 0.0 <= gap.high else "clear of zero"
        sure = "of a single score: may be chance" if math.isnan(gap.low) else sure
        next_best = ", the next best" if rival is second and len(contenders) > 2 else ""
        told.append(f"{t.said(gap)} to {label}{next_best} ({sure})")
    return f"{first}. Paired difference{'s' * (len(told) > 1)}: {'; '.join(told)}."


def telling_constant(contender: Contender, split: str) -> str | None:
    """Return the task constant that explains most of the returns; None if no constant takes more than 10 values.

    Tasks are divided into fifths by each constant; the chosen one has the largest variance between the mean returns of
    its fifths (correlation ratio). Unlike correlation, this also detects effects that are not monotonic.
    """
    returns, task = final(contender, split).mean(0), contender.results[split][0]["task"]
    found = {}
    for name, values in task.items():
        column = np.asarray(values, dtype=np.float64)
        if len(np.unique(column)) > 10:
            fifths = np.array_split(returns[np.argsort(column, kind="stable")], 5)
            found[name] = sum(len(fifth) * (fifth.mean() - returns.mean()) ** 2 for fifth in fifths)
    return max(found, key=lambda name: found[name]) if found else None


def file_name(text: str) -> str:
    """Return the text in lower case as letters, digits and dashes, for file names."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in text.lower()).strip("-") or "x"
