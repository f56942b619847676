"""Build the objects of a run (benchmark, learner, meta-optimizer, plan, generators) from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from envs import Family, SameTasks, TaskBenchmark
from experiments.config import Config
from experiments.errors import InputError
from experiments.lookup import choose, choose_or_import
from experiments.names import (
    ACTIVATIONS,
    BENCHMARKS,
    INNER_LOSSES,
    LOSSES,
    META_OPTIMIZERS,
    POLICIES,
    RULES,
    query_advantages,
    seeing_actions,
    support_advantages,
)
from experiments.plugins import made, own_loss, own_policy, own_rule
from experiments.streams import stream
from metarl import MLP, CategoricalPolicy, GaussianPolicy, Learner, MetaOptimizer, Plan, Policy, meta_train
from metarl.exploration import refuse_no_credit
from metarl.losses import Loss, PreUpdateCredit, WeightedSum, negative_entropy
from metarl.optimizers.base import groups
from metarl.policies import refuse_misfit, refuse_width
from metarl.rollouts import collect
from metarl.rules import UpdateRule, WhitenedInputs
from metarl.testing.families import look_over_family
from metarl.types import Benchmark, TaskFamily


@dataclass(frozen=True)
class Progress:
    """How far a run has trained: finished meta-iterations and environment steps."""

    iteration: int = 0
    env_steps: int = 0


@dataclass(frozen=True)
class Setup:
    """Everything a training loop needs."""

    benchmark: Benchmark
    learner: Learner
    optimizer: MetaOptimizer
    plan: Plan
    generator: torch.Generator  # rollout noise, on the device
    task_generator: torch.Generator  # tasks, on the CPU
    config: Config
    read: frozenset[str] = frozenset()  # configuration fields that take effect: read while building or training

    @property
    def device(self) -> torch.device:
        """Device of the run."""
        return self.generator.device

    def train(self, done: Progress = Progress()) -> Iterator[tuple[int, dict[str, float]]]:  # noqa: B008 (frozen)
        """Continue meta-training from ``done``, one iteration per item; see `metarl.meta_train`.

        Ends with the iteration that reaches the budget ``config.env_steps``.
        """
        iterations = meta_train(
            self.learner,
            self.optimizer,
            self.benchmark,
            self.plan,
            generator=self.generator,
            task_generator=self.task_generator,
            start=done.iteration,
            patience=self.config.patience,
        )
        spent = done.env_steps
        while spent < self.config.env_steps:
            self.optimizer.share = self.config.share(spent)
            iteration, metrics = next(iterations)
            spent += int(metrics["env_steps"])
            yield iteration, metrics


Wrap = Callable[[Family], Family]

TRAINING = frozenset({"env_steps", "final_share", "patience"})
"""Fields of the configuration that `Setup.train` reads."""


class Read:
    """Proxy of a configuration that records which of its attributes are read."""

    def __init__(self, config: Config) -> None:
        """Start with the fields of `TRAINING`, which are always read later."""
        self._config, self.asked = config, set(TRAINING)

    def __getattr__(self, name: str) -> Any:
        """Record the name and return the configuration's attribute."""
        self.asked.add(name)
        return getattr(self._config, name)


def build(config: Config, device: torch.device, wrap: Wrap | None = None) -> Setup:
    """Build a run from its configuration.

    A benchmark that is not one of metarl's own gets a quick check before anything is built on it.

    Args:
        config: the configuration.
        device: where to train.
        wrap: wrapper of the benchmark's family, to keep its tasks but change how environments show or run them.

    Raises:
        InputError: a name or value cannot be used. Nothing has been written at that point.
    """
    read = Read(config)
    try:
        setup = _put_together(cast(Config, read), device, wrap)
        used = frozenset(read.asked - idle(config, setup.learner))
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    return replace(setup, config=config, read=used)


def idle(config: Config, learner: Learner) -> set[str]:
    """Return fields that are read while building but have no effect on the run."""
    found: set[str] = set()
    if config.meta_optimizer in ("evolution", "reptile"):  # these use no outer loss
        found |= {"outer_loss", "entropy_penalty"} | (set() if config.credit or config.coverage else {"clip"})
    if config.meta_optimizer == "evolution":  # it uses no outer advantages either
        found |= {"query_discount", "query_decay", "query_scale"}
    if len(groups(learner, config.lr, None)) < 2:  # only the initialization is learned
        found.add("rate_lr")
    if config.inner_loss in ("dice", "tmaml"):  # they use rewards, not advantages
        found |= {"decay", "normalize"}
    return found


def _put_together(config: Config, device: torch.device, wrap: Wrap | None) -> Setup:
    benchmark = build_benchmark(config)
    if config.benchmark not in BENCHMARKS:
        refuse_broken(config.benchmark, benchmark.family)
    plan = build_plan(config, benchmark)
    if wrap is not None:
        benchmark, plan = wrapped(benchmark, wrap), replace(plan, scored_in=_wrapped(plan.scored_in, wrap))
    policy = build_policy(config, benchmark)
    refuse_misfit(policy, benchmark.family)
    refuse_width(policy, benchmark.family)
    rule = build_rule(config, policy)
    refuse_unseen(policy, rule, benchmark.family)
    learner = Learner(
        policy,
        rule,
        inner=build_inner_loss(config, benchmark.family),
        outer=build_outer_loss(config, benchmark.family),
        credit=_credit(config),
        every_step=config.every_step,
    ).to(device)
    refuse_no_credit(learner, plan, plan.tasks)
    if config.compile:
        _refuse_live(benchmark.family)
        learner.compile()
    optimizer = choose("meta-optimizer", config.meta_optimizer, META_OPTIMIZERS)(config, learner)
    optimizer.refuse(learner)
    noise, tasks = stream(config.seed, "noise", device), stream(config.seed, "tasks")
    return Setup(benchmark, learner, optimizer, plan, noise, tasks, config)


def refuse_unseen(policy: Policy, rule: UpdateRule, family: TaskFamily) -> None:
    """Check that the policy's network reports the layer inputs that the rule reads, if it reads any.

    Raises:
        InputError: the network does not report the inputs of a layer that the rule needs.
    """
    needed = [layer for part in rule.modules() if isinstance(part, WhitenedInputs) for layer in part.layers]
    if not needed:
        return
    seen = policy.layer_inputs(policy.initial(), torch.zeros(1, *(family.observation_space.shape or ())))
    for layer in needed:
        if layer not in seen:
            raise InputError(
                f"the rule needs the inputs of {layer}, which the policy's network does not report: expected one with "
                "`layer_inputs`, as metarl.MLP has; choose another rule, or --policy mlp"
            )


def refuse_broken(name: str, family: TaskFamily) -> None:
    """Run the quick checks of `look_over_family`, since training on a broken environment gives wrong results.

    Raises:
        InputError: the family breaks the contract of environments.
    """
    for line in look_over_family(family):
        raise InputError(
            f"benchmark {name!r}: {line}; python experiments/check.py family {name} says what else is wrong"
        )


def _refuse_live(family: TaskFamily) -> None:
    """Check that the family can be compiled: compiled programs can only replay tensor operations.

    Raises:
        InputError: the family's episodes live outside of torch.
    """
    if getattr(family, "live", False):
        raise InputError("--compile: this family runs outside torch and cannot be compiled; leave it out")


def _credit(config: Config) -> PreUpdateCredit | None:
    if not (config.credit or config.coverage):
        return None
    return PreUpdateCredit(config.credit, config.coverage, config.clip)


def build_benchmark(config: Config) -> Benchmark:
    """Return the benchmark with the configured name.

    An imported name may refer to a benchmark or a family, or to a function or class that makes one. An ``envs.Family``
    becomes a `TaskBenchmark` of its ranges, whose only held-out splits are validation and test; the name determines
    which cells of its task space belong to which split.

    Raises:
        InputError: the name refers to neither, or to an object whose horizon was to be changed.
    """
    found = find_benchmark(config.benchmark, config.horizon)
    if all(hasattr(found, member) for member in ("family", "splits", "sample", "is_training", "fingerprint")):
        benchmark: Benchmark = found
        return benchmark
    if isinstance(found, Family):
        return TaskBenchmark(config.benchmark, found)
    raise InputError(
        f"benchmark {config.benchmark!r} is of type {type(found).__name__}; expected a metarl.types.Benchmark, such as"
        " an envs.TaskBenchmark, or an envs.Family that can be made one"
    )


def wrapped(benchmark: Benchmark, wrap: Wrap) -> Benchmark:
    """Return a benchmark with the same tasks whose family is wrapped by ``wrap``.

    Raises:
        InputError: the benchmark is not an `envs.TaskBenchmark`.
    """
    if not isinstance(benchmark, TaskBenchmark):
        raise InputError(f"{benchmark.name}: expected an envs.TaskBenchmark to wrap, got {type(benchmark).__name__}")
    return SameTasks(benchmark, wrap(benchmark.family))


def _wrapped(family: TaskFamily | None, wrap: Wrap) -> Family | None:
    """Wrap the family that scores the adapted policy (``scored_in``) like the one it adapts in; None stays None.

    Raises:
        InputError: the family is not an `envs.Family`.
    """
    if family is None:
        return None
    if not isinstance(family, Family):
        raise InputError(f"scored_in: expected an envs.Family to wrap, got {type(family).__name__}")
    return wrap(family)


def find_benchmark(name: str, horizon: int | None) -> Any:
    """Return the benchmark or family that a name refers to, calling a function or class with ``horizon`` if given.

    Raises:
        InputError: the name is unknown, refers to what cannot be called that way, or to an object whose horizon was to
            be changed.
        ValueError, TypeError: a benchmark of this project refuses the horizon.
    """
    found = choose_or_import("benchmark", name, BENCHMARKS)
    if isinstance(found, type) or callable(found) and not hasattr(found, "step"):
        try:
            return made(name, found, **({} if horizon is None else {"horizon": horizon}))
        except (ValueError, TypeError) as error:
            if name in BENCHMARKS or isinstance(error, InputError):
                raise
            # the message alone may be Python's, about arguments that nobody would connect with the name
            raise InputError(f"benchmark {name!r}: {error}") from error
    if horizon is not None:
        raise InputError(f"{name} is an object with its own horizon; leave --horizon out")
    return found


def build_policy(config: Config, benchmark: Benchmark) -> Policy:
    """Return the policy with the configured name, for the spaces of the benchmark's family."""
    if config.policy not in POLICIES:
        return own_policy(config, benchmark.family)
    policy = _policy(config, benchmark.family)
    return _policy(config, benchmark.family, spread(benchmark, policy)) if config.scale_inputs else policy


def _policy(config: Config, family: TaskFamily, input_scale: Tensor | None = None) -> Policy:
    observations, actions = family.observation_space, family.action_space
    if not isinstance(observations, Box) or len(observations.shape) != 1:
        raise InputError(f"policies read flat Box observations, got {observations}; flatten them in the family")
    outputs = int(actions.n) if isinstance(actions, Discrete) else int(actions.shape[0])
    network = MLP(
        observations.shape[0],
        config.hidden,
        outputs,
        activation=ACTIVATIONS[config.activation],
        context=config.context,
        input_scale=input_scale,
        generator=stream(config.seed, "initialization"),
    )
    if isinstance(actions, Discrete):
        return CategoricalPolicy(network)
    return GaussianPolicy(network, outputs, log_std=config.log_std)


def spread(benchmark: Benchmark, policy: Policy) -> Tensor:
    """Return the standard deviation ``[O]`` of each observation over training tasks, or 1 where it is constant.

    Tasks and noise are the same in every run, so that seeds differ only by what the untrained policy does. These 500
    episodes (100 tasks, 5 each) do not count as training, since nothing is learned from their rewards.
    """
    task = benchmark.sample("train", 100, generator=stream(0, "tasks of the input scale"))
    noise = stream(0, "noise of the input scale")
    batch = collect(policy, policy.initial(), benchmark.family, task, 5, generator=noise)
    deviation = batch.observation[batch.mask > 0.0].std(0)
    return torch.where(deviation > 0.0, deviation, 1.0)


def build_rule(config: Config, policy: Policy) -> UpdateRule:
    """Return the update rule with the configured name."""
    if config.rule not in RULES:
        return own_rule(config, policy)
    return RULES[config.rule](config, policy.initial())


def build_inner_loss(config: Config, family: TaskFamily) -> Loss:
    """Return the inner loss (of adaptation) with the configured name."""
    if config.inner_loss in INNER_LOSSES:
        known: Loss = INNER_LOSSES[config.inner_loss](config, family)
        return known
    return seeing_actions(config, own_loss("inner loss", config.inner_loss, family, seed=config.seed))


def build_outer_loss(config: Config, family: TaskFamily) -> Loss:
    """Return the outer loss (of the adapted policy) with the configured name, plus its entropy penalty if there is one.

    Raises:
        InputError: the loss has parameters: they would learn to make it small.
    """
    if config.outer_loss in LOSSES:
        loss = LOSSES[config.outer_loss](config)
    else:
        loss = own_loss("outer loss", config.outer_loss, family, seed=config.seed)
    if isinstance(loss, nn.Module) and next(loss.parameters(), None) is not None:
        raise InputError(
            f"outer loss {config.outer_loss!r} has parameters, which would learn to make it small; expected one without"
        )
    if not config.entropy_penalty:
        return loss
    return WeightedSum(((1.0, loss), (-config.entropy_penalty, negative_entropy)))


def build_plan(config: Config, benchmark: Benchmark) -> Plan:
    """Return the plan of a meta-iteration: what it samples and how it scores.

    Raises:
        InputError: ``coverage`` has to compare episodes and there is only one per task; or see `_scoring`.
    """
    if config.coverage and config.episodes < 2:
        raise InputError("coverage compares the episodes of a task: expected at least 2, got 1; pass --episodes 5, say")
    return Plan(
        tasks=config.tasks,
        episodes=config.episodes,
        query_episodes=config.query_episodes,
        steps=config.steps,
        support=support_advantages(config),
        query=query_advantages(config),
        scored_in=None if config.scored_in is None else _scoring(config.scored_in, config.horizon, benchmark.family),
    )


def _scoring(name: str, horizon: int | None, family: TaskFamily) -> TaskFamily:
    """Return the family of the benchmark called ``name``, to score policies adapted to tasks of ``family``.

    Raises:
        InputError: the two differ in their observation space, action space, task parameters or horizon.
    """
    found = find_benchmark(name, horizon)
    scoring: TaskFamily = getattr(found, "family", found)
    for what in ("observation_space", "action_space", "parameters", "horizon"):
        if getattr(scoring, what, None) != getattr(family, what, None):
            raise InputError(
                f"scored_in: expected the {what} of the benchmark adapted to, but {name} has a different one"
            )
    return scoring
