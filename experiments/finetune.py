"""Does Stable-Baselines3's PPO learn a new task sooner from a meta-learned start? At equal environment steps.

    python experiments/finetune.py cartpole-polarity --rows 8 --rollout 640 --output results/NAME

A learner is meta-trained from every seed, within the configuration's budget. Then PPO trains on every held-out task
separately, in three ways that differ only in how they start:

- from scratch: the random initialization that the learner's training started from.
- Adam: the exported meta-learned initialization (`metarl.sb3.to_ppo`).
- learned rates: the same, but the first K rollouts are used as the learner would use them, with its learned step
  sizes (`metarl.sb3.adaptation_settings` and ``with_learned_rates``); then PPO takes over.

PPO has SB3's defaults except for the size of rollouts and minibatches, and for its step size. The step size is tuned
over the same grid for each way, on *validation* tasks, by the area under the learning curve and with a seed that is not
reported. Curves are scored on fresh episodes with common noise. Finished jobs are kept; the same command resumes an
interrupted experiment.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.build import Setup, build, build_policy
from experiments.cli import given, parse_config, refuse_unread
from experiments.config import Config
from experiments.contenders import refuse_inner_loss, refuse_live
from experiments.contenders.curves import tasks_of
from experiments.contenders.learners import trained
from experiments.contenders.sb3 import PASS, isolated, learn, scores, stacked
from experiments.errors import InputError, refuse_below_one, script
from experiments.evaluate import Protocol
from experiments.figures.finetuning import finetuning
from experiments.jobs import benchmarks_of, key_of, run_all
from experiments.publishing import about_intervals, markdown, publish, shown
from experiments.scoring import FINETUNING, TUNING_SEED, refuse_another, refuse_tuning_seeds
from experiments.streams import stream
from metarl import Adaptation, DivergedError, NonFiniteError, evaluate
from metarl.export import learned_rates
from metarl.sb3 import TaskVecEnv, adaptation_settings, from_ppo, to_ppo, with_learned_rates
from metarl.types import Params, Task

SCRATCH, ADAM, LEARNED = "from scratch", "meta-learned start, Adam", "meta-learned start, learned rates first"
WAYS = (SCRATCH, ADAM, LEARNED)


@dataclass(frozen=True)
class Options:
    """How thoroughly to compare."""

    output: Path
    """folder for the results; an interrupted experiment is resumed there"""
    seeds: int = 3
    """number of training seeds, counted from --seed"""
    held_out: int = 20
    """number of held-out tasks"""
    tuning_tasks: int = 10
    """number of validation tasks to tune PPO's step size on"""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """grid of PPO's step sizes, the same for every way"""
    rows: int = 20
    """parallel environments of PPO"""
    rollout: int = 2000
    """environment steps per rollout, all rows together; choose about what the learner adapts on"""
    rollouts: int = 16
    """rollouts per task; scored after 0, 1, 2, 4, 8, ..."""
    workers: int = 1
    """number of processes, with one thread each"""


@dataclass(frozen=True)
class Job:
    """One meta-training, then PPO on every task in several ways."""

    config: Config
    protocol: Protocol
    trials: tuple[tuple[str, float], ...]
    """pairs of a way and PPO's step size"""
    rows: int
    rollout: int
    rollouts: int

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        return f"seed {self.config.seed}, {self.protocol.split}"

    @property
    def key(self) -> str:
        """Identifies the job: a stored result with the same key is reused."""
        sizes = (self.rows, self.rollout, self.rollouts)
        plain = self.config.model_dump(mode="json")
        return key_of(plain, asdict(self.protocol), self.trials, sizes, benchmarks_of(self.config))

    def run(self) -> dict[str, Any]:
        """Meta-train within the budget, then fine-tune."""
        setup, spent = trained(self.config)
        task = tasks_of(setup.benchmark, self.protocol)
        return {
            "seed": self.config.seed,
            "task": {name: value.tolist() for name, value in task.items()},
            "env_steps": [count * self.rollout for count in scored(self.rollouts)],
            "own": self.own(setup, task),
            "curves": [self.curve(setup, task, way, rate) for way, rate in self.trials],
            **spent.report(),
        }

    def summary(self, result: dict[str, Any]) -> str:
        """Return the area under the curve of each trial as text."""
        return ", ".join(f"{one['way']} at {one['rate']:g}: {area(result, one):.2f}" for one in result["curves"])

    def own(self, setup: Setup, task: Task) -> dict[str, Any]:
        """Score the learner's own adaptation, without PPO, on as many episodes as in training."""
        adaptation = Adaptation.like(setup.plan, score_episodes=self.protocol.score_episodes)
        noise = stream(self.protocol.seed, "evaluation noise")
        curve = evaluate(setup.learner, setup.benchmark, task, adaptation, generator=noise)
        return {"env_steps": curve.adaptation_steps.tolist(), "sampled": curve.sampled.tolist()}

    def curve(self, setup: Setup, task: Task, way: str, rate: float) -> dict[str, Any]:
        """Train PPO in one way; return scores ``[tasks, points]`` along the way, with the same noise at every point."""
        kept: dict[int, list[Params]] = {count: [] for count in scored(self.rollouts)}
        found: dict[str, Any] = {"way": way, "rate": rate}
        policy, family, columns = setup.learner.policy, setup.benchmark.family, []
        try:
            for t in range(self.protocol.tasks):
                one = {name: value[t : t + 1] for name, value in task.items()}
                with isolated((1000 * self.config.seed + t) % 2**32):  # the range of numpy's seeds
                    for count, params in enumerate(self.learning(setup, one, way, rate, seed=t)):
                        if count in kept:
                            kept[count].append(params)
            for each in kept.values():
                noise = stream(self.protocol.seed, "evaluation noise")
                columns.append(
                    scores(policy, stacked(each), family, task, self.protocol.score_episodes, generator=noise)
                )
        except NonFiniteError as error:
            return found | {"diverged": str(error)}
        sampled, mode = (torch.stack(column, 1).tolist() for column in zip(*columns, strict=True))
        return found | {"sampled": sampled, "mode": mode}

    def learning(self, setup: Setup, task: Task, way: str, rate: float, *, seed: int) -> Iterator[Params]:
        """Train PPO on one task ``[1]``; yield the policy's parameters after 0, 1, ... rollouts."""
        family, policy, n_steps = setup.benchmark.family, setup.learner.policy, self.rollout // self.rows
        params = build_policy(self.config, setup.benchmark).initial() if way == SCRATCH else policy.initial()
        params = {name: leaf.detach().clone() for name, leaf in params.items()}
        env = TaskVecEnv(family, task, episodes=self.rows, seed=seed)
        yield params
        if way == LEARNED:
            for adapted in self.learned_steps(setup, params, env):
                params = adapted
                yield params
        usual: dict[str, Any] = {"n_steps": n_steps, "batch_size": self.rollout // PASS, "learning_rate": rate}
        model = to_ppo(policy, params, env, device="cpu", **usual)
        for _ in range(self.rollouts - (self.config.steps if way == LEARNED else 0)):
            yield from_ppo(policy, learn(model))

    def learned_steps(self, setup: Setup, params: Params, env: TaskVecEnv) -> Iterator[Params]:
        """Yield the parameters after each of the learner's adaptation steps, taken inside PPO on a rollout each.

        Raises:
            InputError: the rule is not one step size per parameter, or a rollout has no whole episode.
        """
        policy = setup.learner.policy
        try:
            settings = adaptation_settings(setup.plan.support, env, self.rollout // self.rows)
            model = with_learned_rates(to_ppo(policy, params, env, device="cpu", **settings), setup.learner)
            for _ in range(self.config.steps):
                yield from_ppo(policy, learn(model))
        except ValueError as error:
            sizes = f"n_steps is --rollout {self.rollout} over --rows {self.rows}"
            raise InputError(f"learned rates inside PPO: {error} ({sizes})") from error


def scored(rollouts: int) -> list[int]:
    """Return the numbers of rollouts after which a curve is scored: 0, 1, 2, 4, 8, ..."""
    return [0, *(2**i for i in range(rollouts.bit_length()) if 2**i <= rollouts)]


def area(result: Mapping[str, Any], curve: Mapping[str, Any]) -> float:
    """Return the normalised area under the learning curve: the mean return over environment steps; -inf if diverged."""
    if "diverged" in curve:
        return -math.inf
    steps = np.asarray(result["env_steps"], dtype=np.float64)
    return float(np.trapezoid(np.mean(curve["sampled"], axis=0), steps) / steps[-1])


@script
def main(argv: list[str]) -> None:
    config, options = parse_config(Options, argv, __doc__)
    refuse_another(options.output, FINETUNING, config.benchmark)
    refuse_unread(given(argv), refuse(config, options).read)
    options.output.mkdir(parents=True, exist_ok=True)
    tuned, tuning = tune(config, options)
    jobs = [
        job(config, options, "test", options.held_out, tuple(tuned.items()), config.seed + i)
        for i in range(options.seeds)
    ]
    finished = run_all(jobs, options.output / "jobs", options.workers)
    results = [finished[one.key] for one in jobs]
    for result in results:
        broken = [str(one["diverged"]) for one in [result, *result.get("curves", [])] if "diverged" in one]
        if broken:
            raise DivergedError(f"a run diverged, so nothing can be compared: {broken[0]}")
    about = {
        "config": config.model_dump(mode="json"),
        "options": asdict(options) | {"output": options.output.name},
        "tuning": tuning,
        "results": results,
    }
    publish(options.output, FINETUNING, "\n".join(table(config, options, tuned, results)), about)
    finetuning(options.output / "finetune", config.benchmark, curves_of(results), results)


def refuse(config: Config, options: Options) -> Setup:
    """Check, before hours of work, that the experiment can run; return the setup that would be trained.

    Raises:
        InputError: a count is too small, a tuning seed would be reported, rollouts cannot be divided evenly, or the
            learner's steps cannot be taken by PPO.
    """
    counts = ("seeds", "held_out", "tuning_tasks", "rows", "rollout", "rollouts", "workers")
    refuse_below_one(**{name: getattr(options, name) for name in counts}, steps=config.steps)
    refuse_tuning_seeds(config.seed, options.seeds)
    if not options.rates or min(options.rates) <= 0.0:
        raise InputError(f"expected positive rates, got {options.rates}")
    if options.rollouts < config.steps:
        raise InputError(f"expected --rollouts >= {config.steps}, one per adaptation step, got {options.rollouts}")
    if options.rollout % options.rows or options.rollout % PASS:
        raise InputError(
            f"expected a rollout divisible by {options.rows} rows and by {PASS} minibatches, got {options.rollout}; "
            "change --rollout or --rows"
        )
    setup = build(config, torch.device("cpu"))
    refuse_live("PPO", setup.benchmark.family)
    refuse_inner_loss("PPO", config, ("lvc", "vpg"))
    task = setup.benchmark.sample("train", 1, generator=stream(0, "spaces"))
    env = TaskVecEnv(setup.benchmark.family, task, episodes=options.rows)
    try:
        adaptation_settings(setup.plan.support, env, 2)
        learned_rates(setup.learner)
    except ValueError as error:
        raise InputError(str(error)) from error
    with suppress(NonFiniteError), isolated(0):  # a rollout may be shorter than the episodes
        list(job(config, options, "train", 1, (), 0).learned_steps(setup, setup.learner.policy.initial(), env))
    return setup


def job(
    config: Config, options: Options, split: str, tasks: int, trials: tuple[tuple[str, float], ...], seed: int
) -> Job:
    """Return the job of a seed with these options."""
    sizes = (options.rows, options.rollout, options.rollouts)
    return Job(config.model_copy(update={"seed": seed}), Protocol(split, tasks), trials, *sizes)


def tune(config: Config, options: Options) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return, for each way, the step size of the grid that is best on validation tasks, and a record of all trials."""
    trials = tuple((way, rate) for way in WAYS for rate in options.rates)
    one = job(config, options, "validation", options.tuning_tasks, trials, TUNING_SEED)
    result = run_all([one], options.output / "jobs", options.workers)[one.key]
    if "diverged" in result:
        raise DivergedError(f"PPO could not be tuned, since the learner diverged: {result['diverged']}")
    chosen, told = {}, []
    for way in WAYS:
        areas = {curve["rate"]: area(result, curve) for curve in result["curves"] if curve["way"] == way}
        chosen[way] = max(areas, key=lambda rate: areas[rate])
        found = {rate: value if math.isfinite(value) else "diverged" for rate, value in areas.items()}
        told.append({"way": way, "mean validation return over the curve, by rate": found, "chosen": chosen[way]})
    return chosen, told


def curves_of(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return, for each way, scores ``[seeds, tasks, points]`` with sampled and with most likely actions."""
    return {
        curve["way"]: {
            field: np.asarray([result["curves"][i][field] for result in results]) for field in ("sampled", "mode")
        }
        for i, curve in enumerate(results[0]["curves"])
    }


def table(
    config: Config, options: Options, tuned: Mapping[str, float], results: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the lines of a Markdown table with a row for every number of environment steps, and of its notes."""
    found = {way: fields["sampled"] for way, fields in curves_of(results).items()}
    head = ["environment steps on the task", *found, *(f"{way} − {SCRATCH}, paired" for way in WAYS[1:])]
    rows = []
    for i, steps in enumerate(results[0]["env_steps"]):
        cells = [f"{steps:,}", *(shown(found[way][..., i], digits=1) for way in WAYS)]
        rows.append(cells + [shown(found[way][..., i] - found[SCRATCH][..., i], digits=1) for way in WAYS[1:]])
    own, cost = (np.asarray([result["own"][field] for result in results]) for field in ("sampled", "env_steps"))
    low, high = min(options.rates), max(options.rates)
    ends = {low: " (the smallest tried)", high: " (the largest tried)"} if low < high else {}
    rates = ", ".join(f"{way} {rate:g}{ends.get(rate, '')}" for way, rate in tuned.items())
    return [
        f"PPO on held-out tasks of {config.benchmark}: mean return, {about_intervals(own[..., -1])}.",
        "",
        *markdown(head, rows),
        "",
        f"{options.seeds} seeds, {options.held_out} tasks; {options.rows} rows, rollouts of {options.rollout:,} steps.",
        f"Step sizes of PPO's Adam, each the best of {len(options.rates)} on {options.tuning_tasks} validation tasks: "
        f"{rates}.",
        f"The learner's own adaptation, without PPO: {shown(own[..., -1], digits=1)} after "
        f"{cost[..., -1].mean():,.0f} environment steps.",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
