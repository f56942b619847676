"""Typical mistakes of callers raise one-line errors that say what was expected and what was given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from envs import Navigation, TaskBenchmark
from metarl import (
    Adaptation,
    Advantages,
    Clipped,
    CrossFitted,
    Descent,
    Dice,
    Evolution,
    GaussianPolicy,
    Learner,
    LinearBaseline,
    Plan,
    PreUpdateCredit,
    Reptile,
    TrustRegion,
    WeightedSum,
    ZeroBaseline,
    adapt,
    adaptation_curve,
    checks,
    collect,
    evaluate,
    explore,
    meta_step,
    meta_train,
    vpg,
)
from metarl.action_baseline import ActionBaseline
from metarl.diagnostics import estimate, initial_gradient
from metarl.exploration import explore_together
from metarl.learned_signals import LearnedAdvantage, LearnedLoss, LearnedReward
from metarl.objectives import LearnedObjective
from metarl.rules import SGD, Chain, MetaSGD, MLPSchedule, Offset, Positive, Scheduled
from tests.helpers import categorical_policy, gaussian_policy, seeded

FAMILY = Navigation(horizon=4)
BENCHMARK = TaskBenchmark("navigation-of-mistakes", FAMILY)
PLAN = Plan(tasks=2, episodes=2, query_episodes=2)
HOW = Adaptation(episodes=2, score_episodes=2)
POLICY = gaussian_policy()
LEARNER = Learner(POLICY, SGD(0.1), inner=vpg, outer=vpg)
MISFIT = Learner(categorical_policy(), SGD(0.1), inner=vpg, outer=vpg)
FROZEN = Learner(gaussian_policy().requires_grad_(False), SGD(0.1), inner=vpg, outer=vpg)
TASK = BENCHMARK.sample("test", 2, generator=seeded(0))


def training(learner: Any = LEARNER, optimizer: Any = None, plan: Any = PLAN, **given: Any) -> Any:
    streams = {"generator": seeded(0), "task_generator": seeded(1)}
    own = Descent(LEARNER) if optimizer is None else optimizer
    return next(meta_train(learner, own, BENCHMARK, plan, **{**streams, **given}))


def adapting(
    learner: Any = LEARNER, family: Any = FAMILY, task: Any = TASK, how: Any = HOW, generator: Any = None
) -> Any:
    return next(adapt(learner, family, task, how, generator=seeded(0) if generator is None else generator))


def evaluating(target: Any = BENCHMARK, task: Any = TASK, how: Any = HOW, **given: Any) -> Any:
    return evaluate(LEARNER, target, task, how, generator=seeded(0), **given)


def exploring(learner: Any = LEARNER, family: Any = FAMILY, task: Any = TASK, plan: Any = PLAN, **given: Any) -> Any:
    return explore(learner, family, task, plan, **{"generator": seeded(0), **given})


def collecting(family: Any = FAMILY, episodes: Any = 2, params: Any = None, **given: Any) -> Any:
    own = POLICY.initial() if params is None else params
    return collect(POLICY, own, family, TASK, episodes, **{"generator": seeded(0), **given})


def stepping(optimizer: Any, learner: Learner = LEARNER) -> Any:
    return meta_step(learner, optimizer, FAMILY, TASK, PLAN, generator=seeded(0))


def task(change: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: change(value) for name, value in TASK.items()}


A_FAMILY = "expected a family, got a TaskBenchmark; for a benchmark, pass its .family"
A_GENERATOR = "expected a torch.Generator, such as"
WHOLE, LENGTH = "expected a whole number, got", r"expected task constants of one common length \[T\], got"
MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "adapt, benchmark": (lambda: adapting(family=BENCHMARK), TypeError, A_FAMILY),
    "adapt, plan": (lambda: adapting(how=PLAN), TypeError, "adaptation: expected an Adaptation, .*, got a Plan"),
    "adapt, policy": (lambda: adapting(POLICY), TypeError, "learner: expected a Learner, got a GaussianPolicy"),
    "adapt, seed": (lambda: adapting(generator=0), TypeError, f"generator: {A_GENERATOR} .*, got 0"),
    "adapt, frozen": (
        lambda: list(adapt(FROZEN, FAMILY, TASK, HOW, generator=seeded(0))), ValueError, "nothing to adapt: .* frozen",
    ),
    "adapt, columns": (lambda: adapting(task=task(lambda v: v[:, None])), ValueError, LENGTH),
    "adapt, one number": (lambda: adapting(task=task(lambda v: v[0])), ValueError, LENGTH),
    "adapt, floats": (
        lambda: adapting(task=task(lambda v: 1.0)), ValueError, f"{LENGTH} .*'goal_x': '1.0'.*; family.task"
    ),
    "adapt, mixed": (lambda: adapting(task={**TASK, "start_x": [0.0, 0.0]}), ValueError, f"{LENGTH} .*'a list'"),
    "adapt, list": (lambda: adapting(task=[TASK]), TypeError, "task: expected constants by name, .*, got a list"),
    "adapt, NaN": (lambda: adapting(task=task(lambda v: v * float("nan"))), ValueError, "goal_x: expected .* got nan"),
    "curve, benchmark": (
        lambda: adaptation_curve(LEARNER, BENCHMARK, TASK, HOW, generator=seeded(0)), TypeError, A_FAMILY,
    ),
    "evaluate, function": (
        lambda: evaluating(lambda: BENCHMARK),
        TypeError,
        "benchmark: expected one with held-out splits, got a function; call it",
    ),
    "evaluate, family": (lambda: evaluating(FAMILY), TypeError, "benchmark: expected one with held-out splits"),
    "evaluate, plan": (lambda: evaluating(how=PLAN), TypeError, "adaptation: expected an Adaptation"),
    "evaluate, split": (lambda: evaluating(task="test"), TypeError, "task: expected constants by name, .* got 'test'"),
    "evaluate, chunk": (lambda: evaluating(chunk=1.5), TypeError, f"chunk: {WHOLE} 1.5"),
    "explore, benchmark": (lambda: exploring(family=BENCHMARK), TypeError, A_FAMILY),
    "explore, adaptation": (lambda: exploring(plan=HOW), TypeError, "plan: expected a Plan, got an Adaptation"),
    "explore, seed": (lambda: exploring(generator=None), TypeError, f"{A_GENERATOR} .*, got None"),
    "explore, another's policy": (lambda: exploring(MISFIT), ValueError, "expected a GaussianPolicy .*, got a Categor"),
    "explore, another's task": (
        lambda: exploring(task={"mass": torch.ones(2)}), ValueError,
        r"expected a task of the family, got one of \['mass'\] without 'start_x'; sample tasks from",
    ),
    "explore, one generator for two": (
        lambda: explore_together([LEARNER, LEARNER], FAMILY, [TASK, TASK], PLAN, generators=[seeded(0)]), ValueError,
        "expected equally many of each, got 2 learners, 2 task sets, 1 generators",
    ),
    "explore, no tasks": (lambda: exploring(task=task(lambda x: x[:0])), ValueError, "number of tasks must be at lea"),
    "collect, benchmark": (lambda: collecting(BENCHMARK), TypeError, A_FAMILY),
    "collect, seed": (lambda: collecting(generator=0), TypeError, A_GENERATOR),
    "collect, half an episode": (lambda: collecting(episodes=1.5), TypeError, f"episodes: {WHOLE} 1.5"),
    "collect, names": (lambda: collecting(params={"w": torch.ones(2)}), ValueError, "the policy has no parameter 'w'"),
    "train, Adam": (
        lambda: training(optimizer=torch.optim.Adam(LEARNER.parameters())), TypeError,
        "optimizer: expected a meta-optimizer, .*, got an Adam",
    ),
    "train, class": (lambda: training(optimizer=Descent), TypeError, "optimizer: .*got <class .*Descent"),
    "train, adaptation": (lambda: training(plan=HOW), TypeError, "plan: expected a Plan, got an Adaptation"),
    "train, policy": (lambda: training(POLICY), TypeError, "learner: expected a Learner"),
    "train, seed": (lambda: training(generator=0), TypeError, f"generator: {A_GENERATOR}"),
    "train, seed of tasks": (lambda: training(task_generator=1), TypeError, f"task_generator: {A_GENERATOR}"),
    "train, start": (lambda: training(start=-1), ValueError, "start must be at least 0, got -1"),
    "train, patience": (lambda: training(patience=0.5), TypeError, f"patience: {WHOLE} 0.5"),
    "sample, seed": (lambda: BENCHMARK.sample("test", 2, generator=0), TypeError, "expected a torch.Generator, got 0"),
    "sample, turned": (lambda: BENCHMARK.sample(2, "test", generator=seeded(0)), ValueError, "no split 2; known are"),
    "descent, policy": (lambda: Descent(POLICY), TypeError, "learner: expected a Learner, got a GaussianPolicy"),
    "descent, frozen": (lambda: Descent(FROZEN), ValueError, "nothing to learn: all parameters .* are frozen"),
    "descent, Adam": (lambda: Descent(LEARNER, optimizer="adam"), TypeError, "expected a class, .* got 'adam'"),
    "descent, epochs": (lambda: Descent(LEARNER, epochs=1.5), TypeError, f"epochs: {WHOLE} 1.5"),
    "descent, minibatches": (lambda: Descent(LEARNER, minibatches=0), ValueError, "minibatches must be at least 1"),
    "evolution, frozen": (lambda: Evolution(FROZEN), ValueError, "nothing to learn"),
    "evolution, pairs": (lambda: Evolution(LEARNER, pairs=1.5), TypeError, f"pairs: {WHOLE} 1.5"),
    "trust region, frozen": (lambda: stepping(TrustRegion(), FROZEN), ValueError, "nothing to adapt: .* are frozen"),
    "trust region, steps": (lambda: TrustRegion(cg_steps=1.5), TypeError, f"cg_steps: {WHOLE} 1.5"),
    "trust region, words": (lambda: TrustRegion(max_kl="0.01"), TypeError, "max_kl: expected a number, got '0.01'"),
    "descent, words": (lambda: Descent(LEARNER, lr="3e-3"), TypeError, "lr: expected a number, got '3e-3'"),
    "descent, no size": (lambda: Descent(LEARNER, lr=None), TypeError, "lr: expected a number, got None"),
    "dice, words": (lambda: Dice("0.9"), TypeError, "discount: expected a number, got '0.9'"),
    "clipped, words": (lambda: Clipped("0.2"), TypeError, "epsilon: expected a number, got '0.2'"),
    "credit, words": (lambda: PreUpdateCredit("1"), TypeError, "weight: expected a number, got '1'"),
    "credit, infinite": (lambda: PreUpdateCredit(math.inf), ValueError, "weight must be finite, got inf"),
    "credit, clip": (lambda: PreUpdateCredit(1.0, clip=-0.2), ValueError, "the clip range must be positive, got -0.2"),
    "reptile, frozen": (lambda: stepping(Reptile(), FROZEN), ValueError, "nothing to adapt: .* are frozen"),
    "plan, steps": (lambda: Plan(steps=-1), ValueError, "steps must be at least 0, got -1"),
    "plan, tasks": (lambda: Plan(tasks=2.0), TypeError, f"tasks: {WHOLE} 2.0"),
    "plan, benchmark": (lambda: Plan(scored_in=BENCHMARK), TypeError, A_FAMILY),
    "adaptation, steps": (lambda: Adaptation(steps=1.5), TypeError, f"steps: {WHOLE} 1.5"),
    "adaptation, discount": (lambda: Adaptation(support=0.95), TypeError, "support: expected advantages, .* got 0.95"),
    "adaptation, company": (lambda: Adaptation(support=Advantages(scale="tasks")), ValueError, "expected scale='task'"),
    "adaptation, like": (lambda: Adaptation.like(HOW), TypeError, "plan: expected a Plan, got an Adaptation"),
    "advantages, words": (lambda: Advantages(discount="0.9"), TypeError, "discount: expected a number, got '0.9'"),
    "learner, words": (
        lambda: Learner(POLICY, SGD(0.1), inner=vpg, outer=vpg, every_step="1"), TypeError, "every_step: .* got '1'",
    ),
    "advantages, class": (lambda: Advantages(baseline=LinearBaseline), TypeError, "baseline: .* got <class"),
    "learner, infinite": (
        lambda: Learner(POLICY, SGD(0.1), inner=vpg, outer=vpg, every_step=math.inf), ValueError,
        "every_step must be a finite weight of at least 0, got inf",
    ),
    "evolution, infinite": (
        lambda: Evolution(LEARNER, perturbation=math.inf), ValueError, "positive, finite perturbation, got inf",
    ),
    "baseline, other": (lambda: CrossFitted(ZeroBaseline()), TypeError, "expected a LinearBaseline, .* a ZeroBaseline"),
    "action baseline": (lambda: ActionBaseline(vpg, ZeroBaseline()), TypeError, "states: expected a LinearBaseline"),
    "action baseline, loss": (lambda: ActionBaseline(Clipped), TypeError, "loss: expected a loss, .* got <class"),
    "advantage, loss": (lambda: LearnedAdvantage(None, None), TypeError, "loss: expected a loss, .* got None"),
    "learned loss, loss": (lambda: LearnedLoss("lvc", None), TypeError, "loss: expected a loss, .* got 'lvc'"),
    "reward, discount": (lambda: LearnedReward(vpg, None, 0.9), TypeError, "advantages: expected .*, got 0.9"),
    "objective, discount": (lambda: LearnedObjective(vpg, 0.9), TypeError, "advantages: expected .*, got 0.9"),
    "sum, nothing": (lambda: WeightedSum(()), ValueError, "terms: expected at least a pair of a weight .* got none"),
    "sum, infinite": (lambda: WeightedSum(((math.nan, vpg),)), ValueError, "weight of a term must be finite, got nan"),
    "sum, bare loss": (lambda: WeightedSum((vpg,)), TypeError, "expected a pair of a weight and a loss, .* a function"),
    "sum, turned": (lambda: WeightedSum(((vpg, 1.0),)), TypeError, "expected a pair of a weight and .* got a tuple"),
    "sum, empty term": (lambda: WeightedSum(((),)), TypeError, "expected a pair of a weight and"),
    "sum, no weight": (lambda: WeightedSum(((vpg,),)), TypeError, "expected a pair of a weight and"),
    "sum, three": (lambda: WeightedSum(((1.0, vpg, vpg),)), TypeError, "expected a pair of a weight and"),
    "sum, weight in words": (lambda: WeightedSum((("a", vpg),)), TypeError, "expected a pair of a weight and"),
    "dice": (lambda: Dice(discount=2.0), ValueError, r"discount must lie in \[0, 1\], got 2.0"),
    "rule, policy": (lambda: MetaSGD(POLICY, initial=0.1), TypeError, "params: expected parameters by name, .* a Gau"),
    "rule, list": (lambda: Offset(SGD(0.1), POLICY.parameters()), TypeError, "params: expected parameters by name"),
    "rule, seed": (lambda: MetaSGD(POLICY.initial(), generator=0), TypeError, A_GENERATOR),
    "rule, word": (
        lambda: MetaSGD(POLICY.initial(), initial=0.1, parameterisation="positive"), TypeError, "got 'positive'",
    ),
    "rule, class": (
        lambda: MetaSGD(POLICY.initial(), initial=0.1, parameterisation=Positive), TypeError, "got <class .*Positive",
    ),
    "rule, word as rate": (lambda: SGD("0.1"), TypeError, "a step size must be a number, got '0.1'"),
    "rule, list of rates": (
        lambda: MetaSGD(POLICY.initial(), initial=[0.1]), TypeError, "a step size must be a number, got a list",
    ),
    "rule, two offsets": (
        lambda: Offset(Chain(Offset(SGD(0.1), POLICY.initial())), POLICY.initial()), ValueError, "already contains an",
    ),
    "policy, infinite spread": (
        lambda: GaussianPolicy(POLICY.network, 2, log_std=math.inf), ValueError, "must be finite, got inf and -5.0",
    ),
    "policy, no least spread": (
        lambda: GaussianPolicy(POLICY.network, 2, min_log_std=math.nan), ValueError, "finite, got 0.0 and nan",
    ),
    "policy, spread below the least": (
        lambda: GaussianPolicy(POLICY.network, 2, log_std=-6.0), ValueError, "at least min_log_std, -5.0, .* got -6.0",
    ),
    "policy, spread in words": (
        lambda: GaussianPolicy(POLICY.network, 2, log_std="0"), TypeError, "log_std: expected a number, got '0'",
    ),
    "estimate, nothing": (lambda: estimate(initial_gradient(LEARNER), []), ValueError, "traces: expected at least one"),
    "schedule, rule": (lambda: Scheduled(SGD(0.1), SGD(0.1)), TypeError, "schedule: expected a Schedule, .* an? SGD"),
    "schedule, seed": (lambda: MLPSchedule(generator=0), TypeError, A_GENERATOR),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_of_ours(mistake: str) -> None:
    make, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words) as raised:
        make()
    assert type(raised.value) is error and "\n" not in str(raised.value)


def test_what_the_mistakes_are_made_of_is_sound() -> None:
    assert training()[0] == 1 and adapting().batch is None and evaluating().sampled.shape == (2, 2)
    assert len(exploring().support) == 1 and collecting().reward.shape == (2, 4, 2)
    assert stepping(Descent(LEARNER))["env_steps"] > 0


def test_numbers_of_numpy_are_numbers() -> None:
    assert Plan(tasks=np.int64(3)).tasks == 3
    for wrong in (True, 3.0, np.float64(3.0), "3", None):
        with pytest.raises(TypeError, match="tasks: expected a whole number, got"):
            checks.whole("tasks", wrong)


def test_a_loss_that_depends_on_nothing_learned_is_refused() -> None:
    learner = Learner(gaussian_policy(), SGD(0.1), inner=vpg, outer=lambda distribution, batch: batch.reward.mean())
    with pytest.raises(ValueError, match="expected a loss that depends on learned parameters, got one without a graph"):
        stepping(Descent(learner), learner)


def test_errors_are_quoted_in_one_short_line() -> None:
    assert checks.raised(ValueError("two\n  lines")) == "ValueError: two lines"
    quoted = checks.raised(KeyError("x" * 2000))
    assert quoted.startswith("KeyError: 'xxx") and quoted.endswith("...")
    assert len(quoted) == len("KeyError: ") + checks.LONGEST
