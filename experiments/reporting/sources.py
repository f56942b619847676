"""Read run folders and comparison folders without trusting their contents.

A file that is missing or cannot be used never makes the report fail: it is listed as missing, with what to do about it,
and the page is made from the rest. Only results that must not be compared are refused.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.config import Config
from experiments.contenders import contender
from experiments.contenders.budget import MEASURED, SCORED, refuse_unequal
from experiments.errors import InputError, existing
from experiments.plugins import imported
from experiments.presets import PRESETS
from experiments.reporting.tables import clean, short
from metarl.checkpoints import CheckpointError, latest

Array = NDArray[np.float64]
Result = dict[str, Any]
Missing = list[tuple[str, str]]
"""Pairs of what is missing, and what to do about it."""

RUN = ("config.json", "metrics.jsonl", "status.json", "evaluation", "checkpoints")
COMPARISON = ("comparison.json", "tuning.json", "jobs")
OTHERS = {"ablation.json": "an ablation", "tune.json": "a search", "finetune.json": "a fine-tuning experiment"}
"""Results that also come with ``jobs`` but have no page, by the name of their file."""
TABLES = ("sampled", "mode", "adaptation_steps")  # fields of a result with shape [tasks, K + 1]
DEFAULTS: Mapping[str, Any] = MappingProxyType(Config().model_dump(mode="json"))
LARGEST = 200_000_000  # bytes; larger files are not read


@dataclass(frozen=True)
class Contender:
    """A rule with its configuration, and the results of every seed by split."""

    label: str
    config: Mapping[str, Any]
    results: Mapping[str, list[Result]]
    folders: tuple[Path, ...] = ()
    diverged: int = 0
    remembers: bool = False
    """whether it adapts by memory: columns of its scores count episodes played on a task, not gradient steps"""

    @property
    def trained(self) -> int:
        """Number of adaptation steps in training."""
        steps = self.config.get("steps", 1)
        return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0 else 1

    def after(self, split: str) -> int:
        """Return the column of the scores to report: the result's ``reported``, else the trained number of steps.

        It is at most the last column.
        """
        told = self.results[split][0].get("reported")
        wanted = told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else self.trained
        return min(wanted, len(self.results[split][0]["sampled"][0]) - 1)

    def scores(self, split: str, name: str = "sampled") -> Array:
        """Return the scores ``[seeds, tasks, K + 1]`` of a split."""
        return np.asarray([result[name] for result in self.results[split]], dtype=np.float64)


@dataclass
class Material:
    """Everything a page is made from."""

    contenders: list[Contender]
    commands: list[str] = field(default_factory=list)
    base: tuple[str, Mapping[str, Any]] = ("the defaults", DEFAULTS)
    """the base configuration that settings are compared with: its name and its fields"""
    systems: list[Mapping[str, Any]] = field(default_factory=list)
    statuses: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    tuning: list[Mapping[str, Any]] = field(default_factory=list)
    missing: Missing = field(default_factory=list)
    compared: bool = False
    """whether it was read from a comparison folder"""

    @property
    def splits(self) -> list[str]:
        """Scored held-out splits: test first, the others by name."""
        found = {split for contender in self.contenders for split in contender.results}
        return sorted(found, key=lambda split: (split != "test", split))

    def on(self, split: str) -> list[Contender]:
        """Return the contenders that were scored on a split."""
        return [contender for contender in self.contenders if contender.results.get(split)]


def read(folders: Sequence[Path]) -> Material:
    """Read run folders or one comparison folder.

    Raises:
        InputError: a folder does not exist or holds neither a run nor a comparison; or a comparison folder is given
            together with others.
    """
    if not folders:
        raise InputError("expected run folders or a comparison folder, got none; see --help")
    for folder in folders:
        existing(folder, "folder")
        for name, what in OTHERS.items():
            if (folder / name).exists():
                raise InputError(
                    f"{folder} holds {what}, expected a run folder or a comparison folder; its results are in "
                    f"{folder / 'table.md'}"
                )
        if not any((folder / name).exists() for name in RUN + COMPARISON):
            raise InputError(f"{folder}: expected a run folder or a comparison folder, found files of neither")
    compared = [folder for folder in folders if any((folder / name).exists() for name in COMPARISON)]
    if compared and len(folders) > 1:
        raise InputError(
            f"expected run folders, or one comparison folder alone, got {len(folders)}, one is {compared[0]}"
        )
    return read_comparison(folders[0]) if compared else read_runs(folders)


def read_json(path: Path, missing: Missing, advice: str) -> Any:
    """Return the value in a JSON file; if it cannot be read, return None and add to ``missing`` with ``advice``."""
    if not path.is_file():
        missing.append((f"{path.parent.name}/{path.name} is not there", advice))
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST / 1e6:.0f} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        missing.append((f"{path.parent.name}/{path.name} cannot be read ({clean(error, 120)})", advice))
        return None


def fault(result: Any) -> str | None:
    """Return what is wrong with an evaluation, in words, or None if it has every number that a page needs."""
    needed = ("fingerprint", "seed", "split", "protocol", "task", "references", *TABLES)
    if not isinstance(result, dict):
        return "not an evaluation"
    if absent := [name for name in needed if name not in result]:
        return f"has no {absent[0]!r}"
    if not all(isinstance(result[name], dict) for name in ("protocol", "task", "references")):
        return "protocol, task or references is not a JSON object"
    if not all(isinstance(result[name], str | int) for name in ("fingerprint", "seed", "split")):
        return "fingerprint, seed or split is neither text nor an integer"
    try:
        tables = [np.asarray(result[name], dtype=np.float64) for name in TABLES]
        columns = [
            np.asarray(result[part][name], dtype=np.float64) for part in ("task", "references") for name in result[part]
        ]
    except (TypeError, ValueError):
        return "holds something other than numbers, or rows of different lengths"
    shape = tables[0].shape
    if len(shape) != 2 or 0 in shape or any(table.shape != shape for table in tables):
        return "tables of scores are empty or differ in shape"
    if any(column.shape != shape[:1] for column in columns):
        return "constants or references do not have one value per scored task"
    if not all(np.isfinite(table).all() for table in [*tables, *columns]):
        return "holds numbers that are not finite"
    return None


# --- runs -------------------------------------------------------------------------------------------------------


Record = tuple[Path, dict[str, Any], dict[str, Result]]
"""A run's folder, its configuration, and its evaluations by the name of their file."""


def read_runs(folders: Sequence[Path]) -> Material:
    """Read run folders, pooling runs that differ only in their seeds as one contender.

    Raises:
        InputError: the runs must not be compared: they differ in their benchmark, budget, training or scoring.
    """
    material = Material([])
    groups: dict[str, list[Record]] = {}
    for record in _looked_at_alike([_read_run(folder, material) for folder in folders], material.missing):
        folder = record[0]
        config = record[1]
        key = json.dumps({**DEFAULTS, **config, "seed": 0}, sort_keys=True) if config else str(folder)
        if config and any(config.get("seed") == other[1].get("seed") for other in groups.get(key, [])):
            material.missing.append(
                (f"{folder.name} repeats another of these runs", "it was left out: same configuration and seed")
            )
            continue
        groups.setdefault(key, []).append(record)
    _check_one_benchmark(groups)
    labels = _labels([group[0][1] for group in groups.values()], [group[0][0].name for group in groups.values()])
    for label, group in zip(labels, groups.values(), strict=True):
        splits = {split for _, _, results in group for split in results}
        results = {split: [found[split] for _, _, found in group if split in found] for split in sorted(splits)}
        kept = {split: _alike(runs, f"{label}, {split}", material.missing) for split, runs in results.items()}
        material.contenders.append(Contender(label, group[0][1], kept, tuple(folder for folder, _, _ in group)))
    _refuse_unequal(material)
    _share_references(material)
    if not material.splits:
        names = [shlex.quote(str(folder)) for folder in folders]
        needed = dict.fromkeys(name for one in material.contenders for name in imported(one.config))
        command = " ".join(["python experiments/evaluate.py", *names, *(f"--plugin {name}" for name in needed)])
        material.missing.insert(0, ("no held-out evaluation", command))
    return material


def _looked_at_alike(records: list[Record], missing: Missing) -> list[Record]:
    """Keep, for every split, only evaluations whose protocol all runs share, if there are any.

    Default protocols differ between runs that are trained with different numbers of episodes, for instance.
    Evaluations that are left out are reported in ``missing``.
    """
    looks = [{json.dumps(result["protocol"]): name for name, result in results.items()} for _, _, results in records]
    common = set.intersection(*(set(named) for named in looks))
    names = {look: looks[0][look] for look in common}  # file names of the first run
    splits = {records[0][2][name]["split"] for name in names.values()}
    found = []
    for (folder, config, results), named in zip(records, looks, strict=True):
        kept = {names[look]: results[named[look]] for look in names}
        for name, result in results.items():
            if result["split"] not in splits:
                kept.setdefault(name, result)
            elif name not in {named[look] for look in names}:
                what = f"evaluation/{name}.json of {folder.name} has a protocol that not all of these runs share"
                missing.append((what, "it was left out: evaluate the others with the same flags"))
        found.append((folder, config, kept))
    return found


def _refuse_unequal(material: Material) -> None:
    """Check that all contenders had the same budget, scoring and episodes per adaptation step.

    Raises:
        InputError: two of them differ; the message names them.
    """
    for one in material.contenders:
        first = material.contenders[0]
        budgets = [contender.config.get("env_steps") for contender in (first, one)]
        if None not in budgets and budgets[0] != budgets[1]:
            raise InputError(
                f"{first.label} and {one.label} had budgets of {clean(budgets[0])} and {clean(budgets[1])} environment "
                "steps: not comparable; make a page for each"
            )
    _refuse_other_training(material)
    for split in material.splits:
        first, *others = material.on(split)
        for one in others:
            if _scoring(first, split) != _scoring(one, split):
                raise InputError(
                    f"{first.label} and {one.label} were not scored alike on {split} (other tasks, noise or episodes): "
                    "not comparable; evaluate them with the same flags, or make a page for each"
                )
    adapting = {split: [one for one in material.on(split) if one.after(split)] for split in material.splits}
    for split, contenders in adapting.items():
        for one in contenders:
            told = [clean(pair.results[split][0]["protocol"].get("episodes")) for pair in (contenders[0], one)]
            if told[0] != told[1]:
                raise InputError(
                    f"{contenders[0].label} and {one.label} adapt on {told[0]} and {told[1]} episodes per step "
                    f"on {split}: not comparable; pass --episodes to evaluate.py, or make a page for each"
                )


def _refuse_other_training(material: Material) -> None:
    """Check that all runs had been trained for the same number of environment steps when they were scored.

    Raises:
        InputError: a run had been trained for more or fewer; the message names it.
    """
    for split in material.splits:
        first: int | None = None
        for one in material.on(split):
            for result in one.results[split]:
                spent = [result.get("env_steps"), one.config.get("env_steps")]
                if not all(isinstance(steps, int) for steps in spent):
                    continue
                first = min(spent) if first is None else first
                if min(spent) != first:
                    raise InputError(
                        f"{one.label}, seed {clean(result['seed'])}, was scored on {split} after {min(spent):,} "
                        f"environment steps of training, another run after {first:,}: not comparable; train them "
                        "equally long, with --resume, and evaluate them again, or make a page for each"
                    )


def _scoring(contender: Contender, split: str) -> Any:
    """Return what must be equal for scores to be comparable: tasks and scoring protocol."""
    result = contender.results[split][0]
    return result["task"], {key: result["protocol"].get(key) for key in SCORED}


def _check_one_benchmark(groups: Mapping[str, list[Record]]) -> None:
    """Check that all runs were scored on the same benchmark, as returns of different ones cannot be compared.

    Raises:
        InputError: they were not; the message names two folders.
    """
    first: dict[str, Path] = {}
    for folder, _, results in (record for group in groups.values() for record in group):
        for result in results.values():
            first.setdefault(str(result["fingerprint"]), folder)
    if len(first) > 1:
        one, other = list(first.values())[:2]
        raise InputError(f"{one} and {other} were scored on different benchmarks; make a page for each")


def _read_run(folder: Path, material: Material) -> Record:
    """Return a run folder's configuration and evaluations; add everything else to the material."""
    missing, advice = material.missing, f"is {folder.name} a run folder of train.py?"
    config = read_json(folder / "config.json", missing, advice)
    config = config if isinstance(config, dict) else {}
    status = read_json(
        folder / "status.json", missing, f"python experiments/train.py --resume {shlex.quote(str(folder))}"
    )
    if isinstance(status, dict):
        material.statuses.append((folder.name, status))
        if status.get("status") != "finished":
            what = f"{folder.name} is not finished: {clean(status.get('status', 'unknown'))}"
            reason = f" ({clean(status['reason'], 200)})" if status.get("reason") else ""
            material.missing.append((what + reason, f"python experiments/train.py --resume {shlex.quote(str(folder))}"))
    system = read_json(folder / "system.json", missing, "versions and machine are not known")
    if isinstance(system, dict):
        material.systems.append(system)
    command = folder / "command.txt"
    if command.is_file():
        lines = command.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [clean(line, 2000) for line in lines]  # the command that began the run, then those that extended it
        material.commands += told
        material.base = _base(told[0] if told else "")
    else:
        missing.append((f"{folder.name}/command.txt is not there", "how it was run is not known"))
    results, now = {}, _iteration(folder)
    for source in sorted((folder / "evaluation").glob("*.json")):
        found = read_json(source, missing, "evaluate the run again")
        if found is None:
            continue
        if wrong := fault(found):
            missing.append((f"evaluation/{source.name}: {wrong}", "evaluate the run again"))
        elif now is not None and found.get("iteration", now) != now:
            what = f"evaluation/{source.name} of {folder.name} is of iteration {clean(found['iteration'])}"
            missing.append((f"{what}, but the last checkpoint of {now}", "it was left out: evaluate again"))
        else:
            results[clean(source.stem)] = found
    return folder, config, results


def _iteration(folder: Path) -> int | None:
    """Return the iteration of the run's last checkpoint, or None if there is none."""
    try:
        return int(latest(folder).name.removeprefix("step_").partition(".")[0])
    except CheckpointError:
        return None


def _base(command: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name and fields of the preset that a command started from, or of the defaults."""
    try:
        parts = shlex.split(command)
    except ValueError:
        parts = []
    for part in parts[2:3]:
        if part in PRESETS:
            return f"the preset {part}", PRESETS[part][1].model_dump(mode="json")
    return "the defaults", DEFAULTS


def _labels(configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return a label for every contender: its rule and, if several share it, the settings in which they differ."""
    rules = [clean(config.get("rule", name)) for config, name in zip(configs, names, strict=True)]
    whole = [{**DEFAULTS, **config} for config in configs]
    fields = [key for key in DEFAULTS if key not in {"rule", "seed"}]
    told = [key for key in fields if len({json.dumps(config[key]) for config in whole}) > 1]
    found = []
    for rule, config, name in zip(rules, whole, names, strict=True):
        if rules.count(rule) == 1:
            found.append(rule)
            continue
        parts = ", ".join(f"{key} {config[key]}" for key in told[:3])
        found.append(clean(f"{rule} ({parts or name})"))
    return _unique(found)


def _unique(labels: Sequence[str]) -> list[str]:
    """Return the labels, with numbers added to those that are equal."""
    return [label if labels.count(label) == 1 else f"{short(label, 70)} [{i}]" for i, label in enumerate(labels, 1)]


def _alike(results: list[Result], what: str, missing: Missing) -> list[Result]:
    """Return the results with the same tasks and protocol as the first; report those left out in ``missing``."""

    def key(result: Result) -> Any:
        return result["fingerprint"], result["protocol"], result["task"], np.shape(result["sampled"])

    kept = [result for result in results if key(result) == key(results[0])]
    if len(kept) < len(results):
        missing.append(
            (f"{what}: {len(results) - len(kept)} of {len(results)} seeds were evaluated differently and are left out",
             "evaluate the runs together: python experiments/evaluate.py RUN RUN ...")
        )  # fmt: skip
    return kept


# --- comparisons ------------------------------------------------------------------------------------------------


def read_comparison(folder: Path) -> Material:
    """Read a comparison folder: its contenders in their order, of which the last is the reference.

    Raises:
        InputError: see `experiments.contenders.budget.refuse_unequal`.
    """
    material, again = Material([], compared=True), "run the same command again: it continues"
    tuning = read_json(folder / "tuning.json", material.missing, again)
    if isinstance(tuning, list):
        material.tuning = [trial for trial in tuning if isinstance(trial, dict)]
    written = read_json(folder / "comparison.json", material.missing, again)
    if not isinstance(written, dict):
        jobs = len(list((folder / "jobs").glob("*.json")))
        material.missing.insert(0, (f"the experiment is not finished ({jobs} jobs are)", again))
        return material
    config = written.get("config") if isinstance(written.get("config"), dict) else {}
    if isinstance(written.get("system"), dict):
        material.systems.append(written["system"])
    if isinstance(written.get("command"), str):
        material.commands.append(clean(written["command"], 2000))
        material.base = _base(written["command"])
    rates = written.get("rates") if isinstance(written.get("rates"), dict) else {}
    results = written.get("results") if isinstance(written.get("results"), dict) else {}
    for rule, found in results.items():
        contender = _contender(str(rule), found if isinstance(found, list) else [], config, rates, material.missing)
        material.contenders.append(contender)
    _refuse_unequal_results(results, config, material.missing)
    _share_references(material)
    labels = _unique([contender.label for contender in material.contenders])
    material.contenders = [replace(one, label=label) for one, label in zip(material.contenders, labels, strict=True)]
    if not material.splits:
        material.missing.insert(0, ("comparison.json holds no scores", again))
    return material


def _share_references(material: Material) -> None:
    """Give every result the references (floor, ceiling) that any result on the same tasks has.

    References belong to the tasks, but some families do not report them, such as an oracle's. Without sharing, one such
    result would leave all scores without a common scale.
    """
    for split in material.splits:
        known: dict[str, Any] = {}
        contenders = material.on(split)
        task = contenders[0].results[split][0]["task"]
        results = [result for one in contenders for result in one.results[split] if result["task"] == task]
        for result in results:
            known = {**result["references"], **known}
        for result in results:
            result["references"] = {**known, **result["references"]}


def _refuse_unequal_results(results: Mapping[str, Any], config: Mapping[str, Any], missing: Missing) -> None:
    """Check the results as `compare.py` does, since the file may come from elsewhere.

    If the file lacks the necessary records, as older ones do, this is reported in ``missing``.

    Raises:
        InputError: see `experiments.contenders.budget.refuse_unequal`.
    """
    needed = (
        *MEASURED,
        "protocol",
        "training_env_steps",
        "last_iteration_env_steps",
        "adaptation_episodes",
        "reported",
    )
    sound = {
        clean(rule): [result for result in found if isinstance(result, dict) and not fault(result)]
        for rule, found in results.items()
        if isinstance(found, list)
    }
    numbers = [config.get(key) for key in ("env_steps", "steps", "episodes")]
    told = all(all(key in result for key in needed) for found in sound.values() for result in found)
    if not told or not all(isinstance(number, int) for number in numbers):
        missing.append(("the budget spent by each rule was not recorded", "equal budgets could not be checked"))
        return
    try:
        refuse_unequal(sound, budget=numbers[0], episodes=numbers[1] * numbers[2])
    except InputError:
        raise
    except (KeyError, TypeError, IndexError, ValueError):
        missing.append(("the budget spent by each rule cannot be read", "equal budgets could not be checked"))


def _contender(
    rule: str, found: list[Any], config: Mapping[str, Any], rates: Mapping[str, Any], missing: Missing
) -> Contender:
    """Return one contender of a comparison. Diverged seeds are counted; unreadable ones are reported in ``missing``."""
    rate = rates.get(rule, config.get("rate")) if contender(rule).tuned else None
    own = dict(config) | contender(rule).changes | {"rate": rate}
    diverged = sum(isinstance(result, dict) and "diverged" in result for result in found)
    whole: dict[str, list[Result]] = {}
    for result in found:
        if isinstance(result, dict) and "diverged" in result:
            continue
        if wrong := fault(result):
            missing.append((f"{clean(rule)}: a seed's result {wrong}", "remove its job and run the comparison again"))
        else:
            whole.setdefault(clean(result["split"]), []).append(result)
    label = clean(rule)
    kept = {split: _alike(results, f"{label}, {split}", missing) for split, results in whole.items()}
    if diverged:
        missing.append(
            (
                f"{label}: {diverged} of {len(found)} seeds diverged",
                "its numbers are those of the other seeds, which flatters it",
            )
        )
    return Contender(label, own, kept, diverged=diverged, remembers=contender(rule).remembers)


# --- how far from training --------------------------------------------------------------------------------------


def distances(ranges: Mapping[str, Any], task: Mapping[str, Sequence[float]]) -> Array:
    """Return how far every task lies outside the training range ``[tasks]``.

    This is the largest distance over its constants, each in units of the range's width, on a log scale if training
    draws on one. It is zero within the range, and infinite where a constant differs that training never varied.

    Args:
        ranges: distributions by constant, as in `envs.Family.ranges`.
        task: values ``[tasks]`` by constant.
    """
    found = [
        _beyond(ranges[name], np.asarray(values, dtype=np.float64)) for name, values in task.items() if name in ranges
    ]
    return np.max(found, axis=0) if found else np.zeros(0)


def _beyond(distribution: Any, values: Array) -> Array:
    """Return distances ``[tasks]`` to the nearest interval of one constant, in units of the whole range's width."""
    scale: Callable[[Array], Array] = np.log if type(distribution).__name__.startswith("Log") else np.asarray
    with np.errstate(divide="ignore", invalid="ignore"):
        ends, points = scale(np.asarray(distribution.intervals, dtype=np.float64)), scale(values)
    gaps = np.maximum(ends[:, :1] - points, points - ends[:, 1:]).clip(0.0).min(0)
    gaps = np.where(gaps <= 1e-6 * np.maximum(np.abs(points), 1.0), 0.0, gaps)  # tasks are stored in single precision
    width = float(ends.max() - ends.min())
    return gaps / width if width > 0.0 else np.where(gaps > 0.0, np.inf, 0.0)
