"""Exploration: adapt to tasks on freshly sampled episodes, and record a trace for the meta-optimizer to replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.advantages import ADVANTAGES, Advantages
from metarl.learner import Learner, refuse_divergence, step_tasks
from metarl.policies import is_stacked, refuse_misfit
from metarl.rollouts import draw, roll_out, task_count
from metarl.rules import RuleState, draw_noise, kept
from metarl.trees import expand, joined, sliced
from metarl.types import Batch, Params, Task, TaskFamily, Trace, expect_family


@dataclass(frozen=True)
class Plan:
    """How much one meta-iteration samples, and how its advantages are estimated.

    Attributes:
        tasks: T, tasks per meta-iteration.
        episodes: N, episodes per task and adaptation step.
        query_episodes: episodes per task that score the adapted policy.
        steps: K, adaptation steps; 0 is a multi-task policy gradient without adaptation.
        support: advantages of the inner loss.
        query: advantages of the outer loss.
        scored_in: another family for the same tasks, whose rewards score the adapted policy; by default the family
            adapted in. Adaptation to sparse rewards can thus be meta-trained with denser rewards for the result (as in
            PEARL, Rakelly et al. 2019, arXiv:1903.08254, section 5). The return metric of the last step is then in the
            units of this family.
    """

    tasks: int = 20
    episodes: int = 20
    query_episodes: int = 20
    steps: int = 1
    support: Advantages = field(default_factory=Advantages)
    query: Advantages = field(default_factory=Advantages)
    scored_in: TaskFamily | None = None

    def __post_init__(self) -> None:
        """Reject counts that are too small, values of a wrong type, and inner advantages that depend on other tasks."""
        for name, least in (("tasks", 1), ("episodes", 1), ("query_episodes", 1), ("steps", 0)):
            checks.whole(name, getattr(self, name), least)
        for name in ("support", "query"):
            checks.of_type(name, getattr(self, name), Advantages, ADVANTAGES)
        if self.scored_in is not None:
            expect_family(self.scored_in)
        self.support.refuse_company()


def explore(learner: Learner, family: TaskFamily, task: Task, plan: Plan, *, generator: torch.Generator) -> Trace:
    """Take K adaptation steps on every task, each on freshly sampled episodes, then sample with the adapted policy.

    Returns:
        A trace of support and query batches ``[T, H, N, ...]`` with their advantages, without a graph. As long as the
        learner is unchanged, ``learner.adapt`` on the support batches reproduces the adapted parameters exactly.
    """
    return explore_together([learner], family, [task], plan, generators=[generator])[0]


@torch.no_grad()
def explore_together(
    learners: Sequence[Learner],
    family: TaskFamily,
    tasks: Sequence[Task],
    plan: Plan,
    *,
    generators: Sequence[torch.Generator],
) -> list[Trace]:
    """`explore` with S learners of the same architecture at once: all their episodes run in one wide rollout.

    Each learner draws the same numbers from its own generator as it would alone, so that its trace is the same,
    up to rounding and to padding at the end.

    Args:
        learners: S learners with policies of the same shape.
        family: the environments.
        tasks: S task sets of equal size T.
        plan: what to sample.
        generators: S generators.

    Raises:
        TypeError: a learner, family, plan or generator of the wrong type.
        ValueError: different numbers of learners, task sets or generators; task sets of different sizes; policies that
            differ in something that is not learned (frozen parameters, buffers, settings) or do not fit the family's
            spaces.
    """
    checks.whole("number of learners", len(learners))
    refuse_unequal({"learners": learners, "task sets": tasks, "generators": generators})
    for learner, generator in zip(learners, generators, strict=True):
        checks.of_type("learner", learner, Learner, "a Learner")
        checks.generator(generator)
    checks.of_type("plan", plan, Plan, "a Plan")
    expect_family(family)
    refuse_misfit(learners[0].policy, family)
    _refuse_misfits(learners, tasks)
    begun = [_start(*one) for one in zip(learners, tasks, generators, strict=True)]
    starts, noises = [start for start, _ in begun], [noise for _, noise in begun]
    supports: list[list[Batch]] = []
    scored: list[list[Batch]] = []
    for k in range(plan.steps):
        twins = [generator.clone_state() for generator in generators]
        batch = _roll_out(learners, starts, family, tasks, plan.episodes, generators)
        parts = [plan.support(part) for part in _split(batch, len(learners))]
        if any(learner.credit is not None and learner.credit.coverage for learner in learners):
            scored.append(_split(_scored(batch, learners, starts, tasks, plan, twins), len(learners)))
        starts = [
            step_tasks(learner, *start, part, programs=learner.programs)
            for learner, start, part in zip(learners, starts, parts, strict=True)
        ]
        for learner, (params, _) in zip(learners, starts, strict=True):
            refuse_divergence(learner, params, k + 1)
        supports.append(parts)
    scoring = family if plan.scored_in is None else plan.scored_in
    batch = _roll_out(learners, starts, scoring, tasks, plan.query_episodes, generators)
    queries = [plan.query(part) for part in _split(batch, len(learners))]
    return [
        _trace(
            tuple(parts[s] for parts in supports),
            query,
            kept(state) if noise else {},
            tuple(leads(parts[s]) for parts in scored),
            comparable=plan.scored_in is None,
        )
        for s, (query, noise, (_, state)) in enumerate(zip(queries, noises, starts, strict=True))
    ]


def refuse_unequal(given: Mapping[str, Sequence[Any]]) -> None:
    """Check that there are equally many of everything that belongs to one learner each.

    Raises:
        ValueError: there are not.
    """
    if len({len(those) for those in given.values()}) > 1:
        counts = ", ".join(f"{len(those)} {name}" for name, those in given.items())
        raise ValueError(f"expected equally many of each, got {counts}")


def leads(batch: Batch) -> Tensor:
    """Return by how much each episode's largest reward exceeds that of all other episodes of its task, ``[T, N]``.

    This is how much the task's largest reward would drop without the episode: a difference reward (Wolpert & Tumer
    2001), zero for all but one episode of a task. The result is centred and scaled to a mean square of 1 over all tasks
    together.

    Args:
        batch: at least two episodes of each task, ``[T, H, N]``.

    Raises:
        ValueError: there is only one episode per task.
    """
    if batch.reward.shape[-1] < 2:
        raise ValueError("coverage compares the episodes of a task: expected at least 2, got 1; try --episodes 5")
    best = batch.reward.masked_fill(batch.mask == 0.0, float("-inf")).amax(-2)
    second = best.topk(2, -1).values[..., 1:]
    lead = (best - second).clamp_min(0.0)
    centred: Tensor = lead - lead.mean()
    return centred / (centred.square().mean().sqrt() + 1e-8)


def _start(learner: Learner, task: Task, generator: torch.Generator) -> tuple[tuple[Params, RuleState], RuleState]:
    """Return the parameters and rule state that a learner starts from, and the noise that its rule drew.

    If the rule drew nothing, all tasks share them; otherwise they are stacked over tasks.
    """
    params, state = learner.start()
    noise = draw_noise(state, task_count(task), generator=generator)
    if noise:
        params, state = expand(params, task_count(task)), {**expand(state, task_count(task)), **noise}
    return (params, state), noise


def _trace(
    support: tuple[Batch, ...], query: Batch, noise: RuleState, led: tuple[Tensor, ...], *, comparable: bool
) -> Trace:
    """Build a trace, with every task's outcome and gain relative to the mean of the *other* tasks.

    That mean is a baseline that does not depend on the task's own data. Outcome and gain are divided by the task's mean
    episode length, to match the scale of the outer loss, which is a mean over steps.
    """
    length = (query.steps / query.mask.shape[-1]).clamp_min(1.0)
    after = query.episode_return.mean(-1)
    before = support[0].episode_return.mean(-1) if support else after
    gained = after - before if comparable else after  # `before` is in other units if the query is scored elsewhere
    return Trace(support, query, _surprise(after) / length, _surprise(gained) / length, noise, led)


def _surprise(score: Tensor) -> Tensor:
    """Return each task's score minus the mean score of the other tasks, ``[T]``; zero for a single task."""
    others = len(score) - 1
    return score - (score.sum() - score) / others if others else torch.zeros_like(score)


def _refuse_misfits(learners: Sequence[Learner], tasks: Sequence[Task]) -> None:
    sizes = [task_count(task) for task in tasks]
    if len(set(sizes)) > 1:
        raise ValueError(f"expected task sets of equal size, got {sizes}: explore these learners one by one")
    first, *others = (
        {name: x for name, x in one.policy.state_dict(keep_vars=True).items() if not x.requires_grad}
        for one in learners
    )
    plain = [_settings(one.policy) for one in learners]
    if any(one != plain[0] for one in plain[1:]):
        raise ValueError("the policies differ in their settings, such as the activation: explore them one by one")
    for other in others:  # the first policy acts for all, with the learned parameters of each
        for name, x in first.items():
            if name not in other or not torch.equal(x, other[name]):
                raise ValueError(f"the policies differ in {name}, which is not learned: explore them one by one")


def refuse_no_credit(learner: Learner, plan: Plan, tasks: int) -> None:
    """Check that credit for the exploring policy or for a stochastic rule can be computed, if there is any.

    Raises:
        ValueError: there is only one task, with no other to compare it with; or ``every_step`` makes returns of later
            adaptation steps count, which the outcome does not include.
    """
    if learner.credit is None and not learner.decides():
        return
    who = "credit for exploring" if learner.credit is not None else f"the rule {type(learner.rule).__name__}"
    if tasks < 2:
        raise ValueError(
            f"{who} compares a task's outcome with those of others: expected at least 2 tasks, got {tasks}"
        )
    if learner.every_step and plan.steps > 1:
        raise ValueError(
            f"{who} counts only returns of the adapted policy: expected every_step=0 or one step, got "
            f"every_step={learner.every_step} and {plan.steps} steps"
        )


def _settings(policy: nn.Module) -> dict[str, Any]:
    """Return what else determines how a policy acts, apart from tensors: its modules' types and plain attributes."""
    found: dict[str, Any] = {}
    for name, module in policy.named_modules():
        found[name] = type(module)
        public = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        plain = {key: value for key, value in public.items() if callable(value) or isinstance(value, int | float | str)}
        found |= {f"{name}.{key}": value for key, value in plain.items()}
    return found


def _roll_out(
    learners: Sequence[Learner],
    starts: Sequence[tuple[Params, RuleState]],
    family: TaskFamily,
    tasks: Sequence[Task],
    episodes: int,
    generators: Sequence[torch.Generator],
) -> Batch:
    """Roll out all learners together, each with its own noise; return their episodes ``[S * T, H, N, ...]``."""
    policy = learners[0].policy
    draws = [draw(policy, family, task, episodes, generator=g) for task, g in zip(tasks, generators, strict=True)]
    params, task, start = starts[0][0], tasks[0], draws[0]
    if len(learners) > 1:
        each = [one if is_stacked(policy, one) else expand(one, task_count(task)) for one, _ in starts]
        params, task = joined(each), joined([dict(one) for one in tasks])
        states, noises = zip(*draws, strict=True)
        start = joined(states), torch.cat(noises, 1)
    return roll_out(policy, params, family, task, start, programs=learners[0].programs)


def _scored(
    batch: Batch,
    learners: Sequence[Learner],
    starts: Sequence[tuple[Params, RuleState]],
    tasks: Sequence[Task],
    plan: Plan,
    generators: Sequence[torch.Generator],
) -> Batch:
    """Replay the episodes of ``batch`` with the rewards that score the adapted policy (``plan.scored_in``).

    ``generators`` are in the state they were in before ``batch`` was sampled.

    Raises:
        ValueError: the same noise gives other episodes in ``plan.scored_in``, which thus differs in more than rewards.
    """
    if plan.scored_in is None:
        return batch
    scored = _roll_out(learners, starts, plan.scored_in, tasks, plan.episodes, generators)
    if not (scored.action.shape == batch.action.shape and torch.equal(scored.action, batch.action)):
        raise ValueError("coverage: expected scored_in to differ only in its rewards, got different episodes")
    return scored


def _split(batch: Batch, learners: int) -> list[Batch]:
    tasks = len(batch.reward) // learners
    return [sliced(batch, s * tasks, (s + 1) * tasks) for s in range(learners)]
