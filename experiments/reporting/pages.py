"""Assemble the whole page: its head, its sections, and the facts about what was run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from experiments.contenders import CONTENDERS
from experiments.names import ALGORITHMS, RULES
from experiments.reporting import sections, summaries
from experiments.reporting import tables as t
from experiments.reporting.desk import FEW, Desk, Section, listed
from experiments.reporting.sources import Missing, Result
from experiments.reporting.tables import Table
from metarl import stats

ORDER: tuple[Callable[[Desk], Section | None], ...] = (
    sections.comparison,
    sections.adaptation,
    sections.cost,
    sections.tasks,
    sections.aggregates,
    sections.splits,
    sections.step_sizes,
    sections.signals,
    sections.planes,
    sections.motion,
    sections.tuning,
    sections.learning,
)


@dataclass(frozen=True)
class Page:
    """The values that the page's template is given."""

    title: str
    headline: str
    """the main finding, in a sentence"""
    basis: str
    """how many seeds, tasks and episodes are behind it"""
    note: str
    tiles: list[tuple[str, str, str]]
    sections: list[Section]
    missing: Missing
    commands: list[str]
    facts: list[tuple[str, str]]
    settings: Table | None


def make(desk: Desk, note: str = "") -> Page:
    """Draw all figures, write all tables, and return the page."""
    made = [section for section in (maker(desk) for maker in ORDER) if section is not None]
    changed = settings(desk)
    for table in [table for section in made for table in section.tables] + ([changed] if changed else []):
        table.write(desk.folder)
    return Page(
        title=title(desk),
        headline=summaries.headline(desk.scored, desk.reference, desk.split) if desk.scored else "",
        basis=basis(desk) if desk.scored else "",
        note=note,
        tiles=tiles(desk) if desk.scored else [],
        sections=made,
        missing=desk.material.missing + desk.live.missing,
        commands=list(dict.fromkeys(desk.material.commands)),
        facts=facts(desk),
        settings=changed,
    )


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # every name and note may be hostile; only our own drawings are marked safe
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(page=page)


def benchmark(desk: Desk) -> str:
    """Return the name of the benchmark, or the names of several."""
    configs = [contender.config for contender in desk.material.contenders]
    names = dict.fromkeys(t.clean(config["benchmark"]) for config in configs if "benchmark" in config)
    return listed(list(names)) or "an unknown benchmark"


def title(desk: Desk) -> str:
    """Return the page's title: which contenders on which benchmark."""
    labels = [contender.label for contender in desk.material.contenders]
    who = listed(labels)
    if len(labels) > 3 or len(who) > 100:
        rules = {str(contender.config.get("rule")) for contender in desk.material.contenders}
        kind = "rules" if desk.material.compared or len(rules) == len(labels) else "learners"
        if set(labels) & (set(CONTENDERS) - set(RULES) - set(ALGORITHMS)):
            kind = "contenders"
        who = f"{len(labels)} {kind}"
    return f"{who or 'No results yet'} on {benchmark(desk)}"


def basis(desk: Desk) -> str:
    """Say how many seeds and tasks are behind the numbers, and what intervals are over."""
    runs = max((contender.results[desk.split] for contender in desk.scored), key=len)
    seeds, tasks = len(runs), len(runs[0]["sampled"])
    episodes = runs[0]["protocol"].get("score_episodes")
    scored = f", each scored on {episodes} fresh episodes" if isinstance(episodes, int) else ""
    over = "over both" if tasks > 1 else "over seeds"
    over = over if seeds > 1 else "over tasks; they say nothing about other seeds"
    told = f"Brackets and bands are 95 % intervals {over}." if seeds * tasks > 1 else "A single score has no interval."
    counted = f"{seeds} training seed{'s' * (seeds > 1)} and {tasks} held-out task{'s' * (tasks > 1)}"
    return f"{counted} of the {desk.split} split{scored}. {told}"


def tiles(desk: Desk) -> list[tuple[str, str, str]]:
    """Return the key numbers of the best contender as (name, value, small print)."""
    best = summaries.ranked(desk.scored, desk.split)[0]
    scores, now = best.scores(desk.split), summaries.final(best, desk.split)
    found, tail = summaries.interval(now), summaries.tail(now)
    places = t.digits(found[:3])
    whose = "" if desk.alone else f"{best.label}: "
    words = f"{whose}return {summaries.steps_words(best, desk.split)}"
    told = [(words[:1].upper() + words[1:] if desk.alone else words, found)]
    shown = [(name, t.number(one.estimate, places), t.bracket(one[:2], places)) for name, one in told]
    if best.after(desk.split):
        shown.append(("Before adapting", t.number(float(scores[..., 0].mean()), places), "mean"))
    shown.append(("Worst tenth of tasks", t.number(tail.estimate, places), t.bracket(tail[:2], places)))
    if best.after(desk.split):
        worse = t.percent(stats.share_worse(scores[..., 0], now), decimals=1)
        shown.append(("Made worse", worse.text, "of seed-task pairs"))
    scaled = summaries.normalized(best, desk.split, now)
    if scaled is not None:
        shown.append(("Share of the best possible", t.percent(float(scaled.mean())).text, "0 % is each task's floor"))
    return shown


def facts(desk: Desk) -> list[tuple[str, str]]:
    """Return facts about what was run, on what machine and for how long, as (name, value)."""
    results = [result for contender in desk.scored for result in contender.results[desk.split]]
    statuses = [status for _, status in desk.material.statuses]
    seeds = {t.clean(result["seed"]) for result in results}
    seeds |= set() if desk.material.compared else {t.clean(c.config.get("seed", "")) for c in desk.material.contenders}
    found = [("Benchmark", benchmark(desk)), ("Seeds", ", ".join(sorted(filter(None, seeds), key=_order)) or "unknown")]
    budgets = sorted({_many(c.config["env_steps"]) for c in desk.material.contenders if "env_steps" in c.config})
    if budgets:
        found.append(("Budget per run", f"{listed(budgets)} environment steps"))
    spent = _numbers(results, "training_env_steps") + _numbers(statuses, "env_steps")
    seconds = _numbers(results, "seconds") + _numbers(statuses, "seconds")
    found += [("Spent", f"{_span(spent)} environment steps")] if spent else []
    found += [("Training took", f"{_span(seconds)} s per run")] if seconds else []
    found += _machine(desk.material.systems[0]) if desk.material.systems else []
    if results:
        found += _protocol(results[0])
    return found


def _protocol(result: Result) -> list[tuple[str, str]]:
    """Return facts about how the held-out tasks were scored."""
    protocol = result["protocol"]
    words = (
        f"{protocol.get('episodes', '?')} episodes per step, {protocol.get('score_episodes', '?')} to score, "
        f"tasks and noise from seed {protocol.get('seed', '?')}"
    )
    return [("Evaluation", t.clean(words)), ("Task fingerprint", t.clean(result["fingerprint"])[:16])]


def _machine(system: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return versions and machine as recorded."""
    packages = system.get("packages")
    named = {"metarl": system.get("metarl", "?"), "Python": system.get("python", "?")}
    named |= packages if isinstance(packages, dict) else {}
    parts = [f"{what} {system[key]}" for key, what in (("cpus", "CPUs:"), ("threads", "threads:")) if key in system]
    machine = ", ".join([str(system.get("platform", "unknown")), *parts, str(system.get("device", ""))]).rstrip(", ")
    found = [("Software", ", ".join(f"{name} {number}" for name, number in named.items())), ("Machine", machine)]
    found += [("Commit", str(system["commit"]))] if system.get("commit") else []
    return [(name, t.clean(value, 200)) for name, value in found]


def settings(desk: Desk) -> Table | None:
    """Return a table of the settings that differ from the preset or defaults; None without a configuration.

    Settings that a comparison varies, or in which its contenders differ, are left out.
    """
    name, base = desk.material.base
    contenders = [contender for contender in desk.material.contenders if contender.config]
    if not contenders:
        return None
    varied = {"seed"}
    if desk.material.compared:
        configs = [contender.config for contender in contenders]
        varied |= {"rule", "rate", "steps"}
        varied |= {key for key in base if any(config.get(key) != configs[0].get(key) for config in configs)}
    contenders = contenders[: 1 if desk.material.compared else FEW]
    fields = [key for key in contenders[0].config if key in base and key not in varied]
    changed = [key for key in fields if any(contender.config.get(key) != base[key] for contender in contenders)]
    heads = ["this comparison"] if desk.material.compared else [contender.label for contender in contenders]
    rows = [
        [t.words(text) for text in (key, *(_shown(c.config.get(key)) for c in contenders), _shown(base[key]))]
        for key in changed
    ]
    return Table("settings", ("setting", *heads, name), rows)


def _numbers(records: list[Any], key: str) -> list[float]:
    found = [record.get(key) for record in records]
    return [value for value in found if isinstance(value, int | float) and not isinstance(value, bool)]


def _span(values: list[float]) -> str:
    ends = [_many(min(values)), _many(max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _many(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else t.clean(value)


def _order(seed: str) -> tuple[int, str]:
    return (int(seed), "") if seed.isdecimal() else (-1, seed)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return t.clean(", ".join(str(part) for part in value))
    if value is None:
        return "none"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole and value >= 10_000 else t.clean(value)
