"""The sections of the page, one function each: figures and tables, and what to see in them.

Each function returns None if there is nothing to show.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments.figures import canvas, panels, rate_panels
from experiments.figures import signals as drawings
from experiments.figures.learning import OTHER_REWARDS, read_metrics, running_mean
from experiments.figures.page import BEFORE, COLORS
from experiments.learned import LOOKED_AT
from experiments.reporting import summaries
from experiments.reporting import tables as t
from experiments.reporting.desk import FEW, Desk, Figure, Section, address, listed
from experiments.reporting.sources import Array, Contender
from experiments.reporting.tables import Table
from metarl import stats
from metarl.stats import Interval

PLANES = 3  # tasks whose paths are drawn
POINTS = 41  # points of a performance profile
GRID = 60  # points of a learning curve that is a mean over seeds
TIMES = ("time/explore", "time/update")
RATES = ("meta/rate_mean", "meta/rate_min", "meta/rate_max", "meta/rate_negative")
COSTS = (
    ("env_steps_total", "environment steps (millions)", "million environment steps", 1e6),
    ("seconds_total", "seconds of training", "seconds of training", 1.0),
)
RETURN = "return of an episode"
TENTH = (
    "Worst tenth: the mean over the worst tenth of the tasks of each seed, with an interval where there are at least "
    f"{summaries.LEAST} tasks."
)
NOTE = f" {TENTH} Made worse: the share of seed-task pairs whose return fell; about one half if adapting does nothing."
GAP = (
    "Normalised: each task from its floor (0) to the best possible (1). Optimality gap: how far tasks fall short of 1 "
    "on average, lower is better. Median task: the median over tasks of the mean over seeds."
)


def comparison(desk: Desk) -> Section | None:
    """Rank the contenders and compare them with the reference, with intervals; None for fewer than two."""
    if len(desk.scored) < 2:
        return None
    reference, split = desk.reference, desk.split
    order = summaries.ranked(desk.scored, split)
    section = Section("comparison", "Comparison")

    def row(contender: Contender, found: Interval) -> panels.Row:
        return panels.Row(contender.label, found, desk.colors[contender.label])

    finals = {contender.label: summaries.interval(summaries.final(contender, split)) for contender in order}
    rows = [row(contender, finals[contender.label]) for contender in order]
    title = "Return after the trained number of steps"
    drawn = panels.forest(desk.path("ranking"), title, rows, RETURN, line=finals[reference.label].estimate)
    section.draw(
        drawn, f"Best first; dotted line: {reference.label}. An arrow marks a mean that lies outside the plot."
    )
    gains = summaries.differences(order, reference, split)
    if gains:
        rows = [row(contender, gains[contender.label]) for contender in order if contender.label in gains]
        title = f"Difference from {t.short(reference.label)}"
        drawn = panels.forest(desk.path("differences"), title, rows, "difference in return", line=0.0)
        section.draw(
            drawn,
            f"Return minus that of {reference.label}, paired by task and seed. If the interval includes zero, the "
            "difference may be chance.",
        )
    section.tables.append(summaries.comparison(desk.scored, reference, split, desk.swatches))
    section.note = (
        f"“After” means after the number of steps that each rule was trained for. {TENTH} “Beats”: the probability "
        f"that a random seed beats a random seed of {reference.label} on a task; 50 % is a tie."
    )
    return section


def adaptation(desk: Desk) -> Section | None:
    """Show the return by adaptation steps and, for a single contender, task by task and as a profile."""
    if not desk.scored:
        return None
    shown, section = desk.few(), Section("adaptation", "Adaptation")
    stepping = [contender for contender in shown if not contender.remembers]
    playing = [contender.label for contender in desk.scored if contender.remembers]
    if stepping:
        steps = max(contender.after(desk.split) for contender in stepping)
        results = {contender.label: contender.results[desk.split] for contender in stepping}
        drawn = panels.curves(desk.path("adaptation"), results, steps, desk.colors)
        most = f"The best {len(shown)} of {len(desk.scored)}. " if len(shown) < len(desk.scored) else ""
        what = "The rise up to the trained number of steps is what was learned; shaded steps go beyond training."
        section.draw(drawn, most + (what if steps else "Trained without adapting."))
    if desk.alone and shown[0].after(desk.split):
        _scatter(desk, section, shown[0])
    if desk.alone:
        _profiles(desk, section, shown)
        section.tables.append(summaries.adaptation(desk.scored[0], desk.split))
        scaled = summaries.aggregates(desk.scored, desk.split, desk.swatches)
        section.tables += [replace(scaled, caption="Normalised scores")] if scaled is not None else []
    else:
        section.tables.append(summaries.by_step(desk.scored, desk.split, desk.swatches))
    section.note = "In bold: after the trained number of steps." + (f"{NOTE} {GAP}" if desk.alone else "")
    if playing:
        section.note += (
            f" For agents that adapt by playing ({listed(playing)}), columns count episodes played on the task."
        )
    return section


def cost(desk: Desk) -> Section | None:
    """Show the cost of adapting to a new task (episodes, environment and adaptation steps) and of training."""
    if not desk.scored:
        return None
    section = Section("cost", "What it costs")
    shown = desk.few()
    if any(contender.after(desk.split) for contender in shown):
        for name, spent in (("steps", "environment steps"), ("episodes", "episodes")):
            lines = {contender.label: _paid(contender, desk.split, name) for contender in shown}
            if all(np.isfinite(line.cost).all() for line in lines.values()):
                title, words = f"Return against {spent}", f"{spent} on the new task"
                drawn = panels.costs(desk.path(f"cost-{name}"), title, lines, words, desk.colors)
                dashed = "; dashed: does not adapt" if any(len(line.cost) == 1 for line in lines.values()) else ""
                section.draw(drawn, f"Large marker: the cost and return given in the tables{dashed}.")
    order = summaries.ranked(desk.scored, desk.split)
    section.tables.append(summaries.costs(order, desk.split, desk.material.statuses, desk.swatches))
    section.note = "Adaptation: per held-out task, until its return is taken. Training: per run. Means over seeds."
    if any(one.label.startswith("ppo") for one in desk.scored):
        section.note += " One adaptation step of PPO is ten passes over its episodes, in minibatches."
    return section


def _paid(contender: Contender, split: str, name: str) -> panels.Paid:
    """Return a contender's mean returns with intervals, and what they cost."""
    found = stats.sample_efficiency(contender.scores(split), stats.mean, seed=0)
    return panels.Paid(summaries.spent(contender, split, name), found, contender.after(split))


def _scatter(desk: Desk, section: Section, contender: Contender) -> None:
    """Draw every task's return before and after adapting."""
    scores, after = contender.scores(desk.split).mean(0), contender.after(desk.split)
    title = f"{contender.label}: every held-out task"
    words = summaries.steps_words(contender, desk.split)
    drawn = panels.scatter(desk.path("tasks", contender), title, scores[:, 0], scores[:, after], words)
    worse = int((scores[:, after] < scores[:, 0]).sum())
    who = "One point per task" if desk.alone else f"{contender.label}, one point per task"
    section.draw(drawn, f"{who}. Below the dotted line adapting made it worse: {worse} of {len(scores)} tasks.")


def tasks(desk: Desk) -> Section | None:
    """Show every task's return before and after adapting, for several contenders."""
    shown = [contender for contender in desk.few() if contender.after(desk.split)] if desk.scored else []
    if desk.alone or not shown:
        return None
    section = Section("tasks", "Task by task", "One point per task: its mean over seeds.")
    for contender in shown:
        _scatter(desk, section, contender)
    return section


def _profiles(desk: Desk, section: Section, shown: list[Contender]) -> None:
    """Draw performance profiles, of normalised returns if every task has a floor and a ceiling."""
    finals = {contender.label: summaries.final(contender, desk.split) for contender in shown}
    colors = dict(desk.colors)
    if desk.alone and shown[0].after(desk.split):
        finals = {"before adapting": shown[0].scores(desk.split)[..., 0], **finals}
        colors["before adapting"] = BEFORE
    scaled = {label: summaries.normalized(shown[0], desk.split, scores) for label, scores in finals.items()}
    known = {label: scores for label, scores in scaled.items() if scores is not None}
    scores = known if len(known) == len(finals) else finals
    if min(one.size for one in scores.values()) < 2:
        return
    # from nearly the lowest score of any contender, but not far below the floor: a broken rule would waste the room
    ends = np.array([np.quantile(one, [0.02, 1.0]) for one in scores.values()])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if scores is not known:
        low = canvas.visible(ends.reshape(-1))[0]
    elif high > 0.0:
        low = max(low, -0.5)
    pad = 0.02 * (high - low) or 1.0
    points = np.linspace(low - pad, high + pad, POINTS)
    found = {label: stats.performance_profile(one, points, seed=0) for label, one in scores.items()}
    label = "normalised return (0: floor, 1: best possible)" if scores is known else RETURN
    drawn = panels.profiles(desk.path("profiles"), found, points, colors, label)
    section.draw(
        drawn, "The share of tasks that score more: higher is better; an early drop means that some tasks score badly."
    )


def aggregates(desk: Desk) -> Section | None:
    """Show performance profiles and normalised aggregates of several contenders."""
    if len(desk.scored) < 2:
        return None
    table = summaries.aggregates(desk.scored, desk.split, desk.swatches)
    section = Section("aggregates", "Normalised scores" if table else "Performance profiles")
    _profiles(desk, section, desk.few())
    if table is not None:
        section.tables.append(table)
        section.note = GAP
    return section if section.figures or section.tables else None


def splits(desk: Desk) -> Section | None:
    """Show held-out splits side by side, and which of their tasks are hard."""
    several = [c for c in desk.material.contenders if len([split for split in c.results if c.results[split]]) > 1]
    if not several and not (desk.alone and desk.scored):
        return None
    section = Section("splits", "Held-out splits side by side" if several else "Held-out tasks")
    section.lead = "None of these tasks can occur in training."
    for contender in (several or desk.scored)[:FEW]:
        names = [split for split in desk.material.splits if contender.results.get(split)]
        if several:
            _split_forest(desk, section, contender, names)
        if desk.alone:
            _by_constant(desk, section, contender, names)
        family = desk.live.family(contender)
        table = summaries.splits(contender, names, None if family is None else family.ranges)
        section.tables.append(Table(desk.path("splits", contender).name, *table, "" if desk.alone else contender.label))
    section.note = (
        "Outside the training range: how far the median task lies beyond the nearest end of the range, and the "
        "furthest task, in percent of the range's width (on a logarithmic scale if training samples on one); each task "
        "counts by the constant that is furthest outside."
    )
    return section


def _split_forest(desk: Desk, section: Section, contender: Contender, names: list[str]) -> None:
    rows = []
    for split in names:
        now, color = summaries.interval(summaries.final(contender, split)), desk.colors[contender.label]
        before = summaries.interval(contender.scores(split)[..., 0]) if contender.after(split) else None
        rows.append(panels.Row(split, now, color, before))
    title = f"{contender.label}: return before and after adapting"
    drawn = panels.forest(desk.path("splits", contender), title, rows, RETURN)
    who = "" if desk.alone else f"{contender.label}. "
    section.draw(drawn, f"{who}Coloured: after the trained number of steps; grey: before adapting.")


def _by_constant(desk: Desk, section: Section, contender: Contender, names: list[str]) -> None:
    """Draw the return against the task constant that explains most of it."""
    family = desk.live.family(contender)
    name = summaries.telling_constant(contender, desk.split)
    if name is None or family is None:
        return
    groups = {}
    for i, split in enumerate(names):
        values = np.asarray(contender.results[split][0]["task"][name], dtype=np.float64)
        groups[split] = (values, summaries.final(contender, split).mean(0), COLORS[i % len(COLORS)])
    unit = getattr(family.parameters[name], "unit", "1")
    log = type(family.ranges[name]).__name__.startswith("Log") and all((v > 0).all() for v, _, _ in groups.values())
    words = f"{name} ({unit})" if unit not in {"", "1"} else name
    drawn = panels.by_constant(desk.path("by-constant"), words, groups, log=log)
    section.draw(drawn, "One point per task, against the hidden constant that explains the return best.")


def step_sizes(desk: Desk) -> Section | None:
    """Show learned step sizes: their distribution, and how far each adaptation step goes along the gradient."""
    section = Section("steps", "Learned step sizes")
    rates = desk.live.rate_tables() if desk.alone else {}
    plain: list[str] = []
    if rates:
        drawn = rate_panels.rate_strips(desk.path("step-sizes"), rates)
        section.draw(
            drawn,
            "Thin line: all step sizes; pale: middle 90 %; bold: middle half; tick: median. Negative ones go uphill.",
        )
        section.tables.append(summaries.rate_table(rates))
    runs = _metrics(desk, desk.material.contenders[0]) if rates else []
    if runs and all(name in runs[0] for name in RATES) and len(runs[0]["env_steps_total"]) > 1:
        steps, columns = runs[0]["env_steps_total"] / 1e6, [runs[0][name] for name in RATES]
        drawn = rate_panels.rates_over_training(desk.path("rates-over-training"), steps, *columns)
        section.draw(drawn, "Over meta-training: the mean of all step sizes, the smallest and the largest.")
    for contender in desk.material.contenders[: 2 * FEW]:
        found = summaries.effective_rates(contender)
        if not found:
            continue
        if (rate := summaries.one_rate(found)) is not None:
            plain.append(f"{contender.label} {rate:.3g}")
            continue
        drawn = rate_panels.rates_by_step(
            desk.path("steps", contender), f"{contender.label}: effective step sizes", found
        )
        negative = summaries.negative_share(contender)
        told = f"; {negative} of its step sizes are negative" if negative else ""
        section.draw(drawn, f"{contender.label}: how far each step goes along the gradient, one line per tensor{told}.")
        table = summaries.effective_table(found)
        caption = "Effective step sizes" if desk.alone else contender.label
        section.tables.append(Table(desk.path("steps", contender).name, *table, caption))
    if plain:
        section.lead = f"All parameters and steps share one step size, so there is nothing to draw: {listed(plain)}."
    if not section.figures and not plain:
        if any(contender.after(desk.split) for contender in desk.scored):
            desk.material.missing.append(("learned step sizes: not recorded in these results", "evaluate them again"))
        return None
    section.note = (
        ""
        if not section.tables
        else (
            "The effective step size of a step u and its gradient g is −⟨u, g⟩ / ⟨g, g⟩: the rate of plain gradient "
            f"descent that goes as far along the gradient; median over the first {LOOKED_AT} tasks at most."
        )
    )
    return section


def signals(desk: Desk) -> Section | None:
    """Show a learned reward or advantage against the given one."""
    found = desk.live.reinforced() if desk.alone else None
    if found is None:
        return None
    given, corrected = found.given.double().numpy(), found.corrected.double().numpy()
    section = Section("signals", f"Learned {found.name}")
    share = drawings.explained(given, corrected)
    told = (
        ""
        if np.isnan(share)
        else f" A quadratic in the given {found.name} explains {100 * share:.0f} % of the variance."
    )
    drawn = drawings.reinforced(desk.path("signals"), found.name, given, corrected)
    section.draw(drawn, f"What the inner loss reinforces, on the time steps of exploring held-out tasks.{told}")
    section.note = "Black: the mean. Deviations from it depend on state, action and next state."
    return section


def planes(desk: Desk) -> Section | None:
    """Show paths of 2-D navigation before and after each adaptation step."""
    found = desk.live.planes(PLANES) if desk.alone else []
    if not found:
        return None
    section = Section(
        "plane", "Paths in the plane", "The first tasks of the test split. The agent does not see the goal."
    )
    for i, plane in enumerate(found, 1):
        drawn = panels.paths_by_step(desk.path(f"plane-{i}"), f"Paths on held-out task {i}", *plane)
        section.draw(drawn, f"Task {i}: episodes before adapting, and after each gradient step.")
    return section


def motion(desk: Desk) -> Section | None:
    """Show an animation of one held-out task."""
    made = desk.live.animate(desk.path("before_and_after.gif")) if desk.alone else None
    if made is None:
        return None
    file, still = made
    caption = "Left: before adapting. Right: after one gradient step on the episodes on the left."
    alt = "One held-out task before and after one gradient step"
    if not desk.live.side_by_side:
        caption = "One episode before adapting, then one after each gradient step."
        alt = "One held-out task before adapting and after each gradient step"
    figure = Figure(caption, moving=address(file, "image/gif"), still=address(still, "image/png"), alt=alt)
    return Section("motion", "One held-out task in motion", figures=[figure])


def learning(desk: Desk) -> Section | None:
    """Show learning curves on training tasks, against environment steps and against seconds."""
    found = {contender.label: _metrics(desk, contender) for contender in desk.material.contenders[:FEW]}
    found = {label: runs for label, runs in found.items() if runs}
    section = Section("learning", "Meta-training")
    for name, words, spoken, unit in COSTS:
        lines = [line for label, runs in found.items() for line in _lines(desk, label, runs, name, unit)]
        if not lines:
            continue
        caption = "On training tasks, not held-out ones; smoothed."
        if any((line.found.low < line.found.high).any() for line in lines):
            caption += " Bands: 95 % intervals over seeds."
        if others := {str(c.config["scored_in"]) for c in desk.material.contenders[:FEW] if c.config.get("scored_in")}:
            caption += f" {OTHER_REWARDS.capitalize()} {', '.join(sorted(others))}."
        if desk.alone and np.isfinite(reached := _most(lines[-1])):
            caption += f" Nine tenths of the gain were reached after {reached:.2g} {spoken}."
        file = "learning" if name == "env_steps_total" else "learning-seconds"
        section.draw(panels.learning(desk.path(file), lines, words), caption)
    return section if section.figures else None


def _metrics(desk: Desk, contender: Contender) -> list[dict[str, Array]]:
    """Return the logged metrics of a contender's runs; runs without rows are left out, unreadable ones reported."""
    runs = []
    for folder in contender.folders:
        try:
            found = read_metrics(folder, (*TIMES, *RATES))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            line = (f"metrics.jsonl of {folder.name} cannot be read", "no learning curve")
            desk.material.missing += [] if line in desk.material.missing else [line]
            continue
        if all(name in found for name in TIMES):
            found["seconds_total"] = np.cumsum(np.nan_to_num(sum(found[name] for name in TIMES)))
        runs += [found] if found else []
    return runs


def _lines(desk: Desk, label: str, runs: list[dict[str, Array]], cost: str, unit: float) -> list[panels.Learned]:
    """Return learning curves before and after all adaptation steps, smoothed and averaged over seeds."""
    keys = sorted(
        (key for key in runs[0] if key.startswith("return/step_")), key=lambda key: int(key.rpartition("_")[2])
    )
    lines = []
    for key in dict.fromkeys([*keys[:1], *keys[-1:]]):
        curves = []
        for run in runs:
            x, y = run.get(cost, np.zeros(0)), run.get(key, np.zeros(0))
            fine = np.isfinite(x) & np.isfinite(y) if len(x) == len(y) else np.zeros(len(x), dtype=bool)
            if fine.sum() > 1:
                curves.append((x[fine] / unit, running_mean(y[fine])))
        if not curves:
            continue
        before = key == keys[0] and len(keys) > 1
        words = "before adapting" if before else "after adapting" if len(keys) > 1 else "without adapting"
        look = (BEFORE, "-") if before and desk.alone else (desk.colors[label], ":" if before else "-")
        place, returns = curves[0][0], np.array([curves[0][1]])
        if len(curves) > 1:  # iterations of different seeds end at different costs: interpolate to a common grid
            place = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), GRID)
            returns = np.array([np.interp(place, x, y) for x, y in curves])
        found = stats.sample_efficiency(returns[:, None], stats.mean, resamples=500, seed=0)
        lines.append(panels.Learned(words if desk.alone else f"{label}, {words}", *look, place, found))
    return lines


def _most(line: panels.Learned) -> float:
    """Return the cost of reaching nine tenths of the gain from the first to the best return; NaN without a gain."""
    returns = line.found.estimate
    if not returns.max() > returns[0]:
        return float("nan")
    target = returns[0] + 0.9 * (returns.max() - returns[0])
    return float(stats.cost_to_reach(returns, line.cost, float(target)))


def tuning(desk: Desk) -> Section | None:
    """Show what was tried to tune every rule, with the same effort for each; None if nothing was tuned."""
    made = summaries.tuning(desk.material.tuning, desk.swatches)
    if made is None:
        return None
    table, lines = made
    section = Section("tuning", "Same tuning effort", tables=[table])
    section.lead = (
        "Every rule's (first) step size, and the meta step size of what it learns if a rate_lr is given, were chosen "
        "from the same grid by the return on validation tasks, after training with a seed that is not reported. All "
        "other settings are shared, except those that define a rule; they may suit some rules better than others."
    )
    if lines:
        drawn = rate_panels.tuning(desk.path("tuning"), lines, desk.colors)
        section.draw(
            drawn,
            "Filled: chosen. Where a line is flat, the choice matters little; a choice at an end calls for a wider "
            "grid.",
        )
    return section
