"""From a configuration to the objects of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from envs import Family, SameTasks, TaskBenchmark
from experiments.config import Config
from experiments.errors import InputError
from experiments.lookup import choose, choose_or_import, is_plugin
from experiments.names import (
    ACTIVATIONS,
    BENCHMARKS,
    INNER_LOSSES,
    LOSSES,
    META_OPTIMIZERS,
    PARAMETERISATIONS,
    RULES,
    choices,
    query_advantages,
    seeing_actions,
    support_advantages,
)
from experiments.streams import stream
from metarl import MLP, CategoricalPolicy, GaussianPolicy, Learner, MetaOptimizer, Plan, Policy, meta_train
from metarl.losses import Loss, PreUpdateCredit, WeightedSum, negative_entropy
from metarl.rollouts import collect
from metarl.rules import Step, UpdateRule
from metarl.testing.losses import Sizes, draw_case
from metarl.types import Benchmark, TaskFamily


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

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

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.generator.device

    def train(self, done: Progress = Progress()) -> Iterator[tuple[int, dict[str, float]]]:  # noqa: B008 (frozen)
        """Meta-train on from ``done``, for as long as the caller goes on; see `metarl.meta_train`.

        The iteration that reaches the budget is the last.
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


def build(config: Config, device: torch.device, wrap: Wrap | None = None) -> Setup:
    """Put a run together; with ``wrap``, on the benchmark's tasks in environments that show or deal them otherwise.

    Raises:
        InputError: a name or value that cannot be used; nothing has been done yet.
    """
    try:
        benchmark = build_benchmark(config) if wrap is None else wrapped(build_benchmark(config), wrap)
        policy = build_policy(config, benchmark)
        learner = Learner(
            policy,
            build_rule(config, policy),
            inner=build_inner_loss(config, benchmark.family),
            outer=build_outer_loss(config, benchmark.family),
            credit=_credit(config),
            every_step=config.every_step,
        ).to(device)
        if config.compile:
            _refuse_live(benchmark.family)
            learner.compile()
        optimizer = choose("meta-optimizer", config.meta_optimizer, META_OPTIMIZERS)(config, learner)
        plan = build_plan(config, benchmark)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    noise, tasks = stream(config.seed, "noise", device), stream(config.seed, "tasks")
    return Setup(benchmark, learner, optimizer, plan, noise, tasks, config)


def imported(config: Config) -> list[str]:
    """What a configuration names that is no part of this project: building it would import that."""
    named = [
        ("benchmark", config.benchmark, BENCHMARKS),
        ("benchmark", config.scored_in or config.benchmark, BENCHMARKS),
        ("rule", config.rule, RULES),
        ("inner loss", config.inner_loss, INNER_LOSSES),
        ("outer loss", config.outer_loss, LOSSES),
    ]
    return [name for kind, name, table in named if is_plugin(kind, name, table)]


def _refuse_live(family: TaskFamily) -> None:
    """Compiled programs repeat tensor operations, and know nothing else.

    Raises:
        InputError: episodes that live elsewhere.
    """
    if getattr(family, "live", False):
        raise InputError("--compile: this family plays outside of torch and cannot be compiled; leave it out")


def _credit(config: Config) -> PreUpdateCredit | None:
    if not (config.credit or config.coverage):
        return None
    return PreUpdateCredit(config.credit, config.coverage, config.clip)


def build_benchmark(config: Config) -> Benchmark:
    """The benchmark by name. An imported one may be a benchmark or a family, or a function or class that makes it.

    A family of ``envs`` becomes a benchmark of its ranges, whose only held-out splits are validation and test. Its
    cells are dealt by the name it is given here.

    Raises:
        InputError: what was found is neither, or has a horizon of its own.
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
    """The benchmark's tasks in environments that show or deal them otherwise.

    Raises:
        InputError: a benchmark of another make.
    """
    if not isinstance(benchmark, TaskBenchmark):
        raise InputError(f"{benchmark.name}: expected an envs.TaskBenchmark to wrap, got {type(benchmark).__name__}")
    return SameTasks(benchmark, wrap(benchmark.family))


def find_benchmark(name: str, horizon: int | None) -> Any:
    """What the name stands for, made if it is a function or a class that makes it.

    Raises:
        InputError: no such name, or an object whose horizon was to be changed.
    """
    found = choose_or_import("benchmark", name, BENCHMARKS)
    if isinstance(found, type) or callable(found) and not hasattr(found, "step"):
        return found(**({} if horizon is None else {"horizon": horizon}))
    if horizon is not None:
        raise InputError(f"{name} is an object with a horizon of its own; leave --horizon out")
    return found


def build_policy(config: Config, benchmark: Benchmark) -> Policy:
    """An MLP policy that fits the spaces of the benchmark's family."""
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
    """Standard deviation ``[O]`` of each observation over training tasks; 1 where it never changes.

    The same tasks and noise for every run, so that seeds differ by what an untrained policy does and no more. None of
    it counts as training: 500 episodes are looked at and nothing is learned from their rewards.
    """
    task = benchmark.sample("train", 100, generator=stream(0, "tasks of the input scale"))
    noise = stream(0, "noise of the input scale")
    batch = collect(policy, policy.initial(), benchmark.family, task, 5, generator=noise)
    deviation = batch.observation[batch.mask > 0.0].std(0)
    return torch.where(deviation > 0.0, deviation, 1.0)


def build_rule(config: Config, policy: Policy) -> UpdateRule:
    """The update rule by name; an imported one is called with the parameters it is to step."""
    parameterisation = PARAMETERISATIONS[config.parameterisation](config)
    found = choose_or_import("rule", config.rule, RULES)
    if config.rule in RULES:
        known: UpdateRule = found(config, policy.initial(), parameterisation)
        return known
    try:
        rule = found(policy.initial())
    except Exception as error:  # whatever somebody else's code may raise
        raise InputError(
            f"rule {config.rule!r}, called with the parameters it is to step, raised {type(error).__name__}: {error}; "
            "expected a function or class of them alone, as in examples/own_rule.py"
        ) from error
    if not isinstance(rule, UpdateRule):
        raise InputError(f"rule {config.rule!r} gave a {type(rule).__name__}; expected a metarl.rules.UpdateRule")
    _refuse_misfit(config.rule, rule, policy)
    return rule


@torch.no_grad()
def _refuse_misfit(name: str, rule: UpdateRule, policy: Policy) -> None:
    """Look at what somebody's rule returns, before a run begins; `metarl.testing.check_rule` looks closer.

    Raises:
        InputError: anything but updates of the parameters' names and shapes and a state.
    """
    params = {key: p.detach() for key, p in policy.initial().items()}
    grads = {key: torch.ones_like(p) for key, p in params.items()}
    try:
        result = rule.update(Step(grads, params, torch.ones(())), rule.init(params))
    except Exception:  # it may need more than is known here; its own traceback is to come
        return
    expected = {key: tuple(p.shape) for key, p in params.items()}
    updates = result[0] if isinstance(result, tuple) and len(result) == 2 else result
    came = {key: tuple(u.shape) for key, u in updates.items()} if isinstance(updates, dict) else type(updates).__name__
    if updates is result or came != expected:
        raise InputError(
            f"rule {name!r}: expected update(step, state) to return (updates, state), with updates of {expected}, "
            f"got {'no pair' if updates is result else came}; see examples/own_rule.py"
        )


def build_inner_loss(config: Config, family: TaskFamily) -> Loss:
    """The loss of adaptation, by name."""
    if config.inner_loss in INNER_LOSSES:
        known: Loss = INNER_LOSSES[config.inner_loss](config, family)
        return known
    return seeing_actions(config, find_loss("inner loss", config.inner_loss, INNER_LOSSES, family))


def build_outer_loss(config: Config, family: TaskFamily) -> Loss:
    """The loss of the adapted policy, by name, and its entropy penalty if there is one.

    Raises:
        InputError: a loss that learns.
    """
    if config.outer_loss in LOSSES:
        loss = LOSSES[config.outer_loss](config)
    else:
        loss = find_loss("outer loss", config.outer_loss, LOSSES, family)
    if isinstance(loss, nn.Module) and next(loss.parameters(), None) is not None:
        raise InputError(
            f"outer loss {config.outer_loss!r} learns: it would learn to be easy; expected one that does not"
        )
    if not config.entropy_penalty:
        return loss
    return WeightedSum(((1.0, loss), (-config.entropy_penalty, negative_entropy)))


def find_loss(kind: str, name: str, table: Mapping[str, Any], family: TaskFamily) -> Loss:
    """A loss that is not ours: one, or a class that makes one without arguments.

    Raises:
        InputError: neither, or it cannot be called with episodes of this family or gives anything but one number;
            `metarl.testing.check_loss` looks closer.
    """
    found = choose_or_import(kind, name, table)
    more = f"python experiments/check.py loss {name} says in words what is wrong with it"
    if not callable(found):
        raise InputError(
            f"{kind} {name!r} is of type {type(found).__name__}; expected a metarl.losses.Loss, or its class"
        )
    try:
        loss: Loss = found() if isinstance(found, type) else copy.deepcopy(found)  # a module may be built with again
        value = loss(*draw_case(0, discrete=isinstance(family.action_space, Discrete), sizes=loss_sizes(family)))
    except Exception as error:  # whatever somebody else's code may raise
        raise InputError(f"{kind} {name!r} cannot be used, {type(error).__name__}: {error}; {more}") from error
    if not isinstance(value, Tensor) or value.shape != ():
        came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{kind} {name!r}: expected one number a task, of shape (), got {came}; {more}")
    return loss


def loss_sizes(family: TaskFamily) -> Sizes:
    """What losses of this family's episodes read."""
    size, discrete = choices(family)
    sizes = Sizes(observation=family.observation_space.shape[0])
    return sizes._replace(choices=size) if discrete else sizes._replace(action=size)


def build_plan(config: Config, benchmark: Benchmark) -> Plan:
    """What a meta-iteration samples.

    Raises:
        InputError: episodes are to be compared and there is one, or see `_scoring`.
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
    """The family of a benchmark by name, for tasks and policies of another.

    Raises:
        InputError: its tasks, observations or actions are others.
    """
    found = find_benchmark(name, horizon)
    scoring: TaskFamily = getattr(found, "family", found)
    for what in ("observation_space", "action_space", "parameters", "horizon"):
        if getattr(scoring, what, None) != getattr(family, what, None):
            raise InputError(
                f"scored_in: expected the {what} of the benchmark that is adapted to, and {name} has another"
            )
    return scoring
