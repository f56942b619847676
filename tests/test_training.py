"""Exploring and the training loop: shapes, counts and random streams, and no graph is retained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from envs import CartPole, Navigation, RingNavigation
from envs.wrappers import Slipping
from metarl import (
    MLP,
    Advantages,
    CategoricalPolicy,
    Descent,
    Evolution,
    GaussianPolicy,
    Learner,
    ModuleNetwork,
    NonFiniteError,
    Plan,
    PreUpdateCredit,
    Reptile,
    TrustRegion,
    adaptation_curve,
    collect,
    explore,
    lvc,
    meta_step,
    meta_train,
    rollouts,
    vpg,
)
from metarl import exploration as exploration_module
from metarl.distributions import Categorical
from metarl.evaluation import Adaptation
from metarl.exploration import explore_together, leads
from metarl.learner import step_tasks
from metarl.objectives import LearnedObjective, WarmStart
from metarl.rules import SGD, MetaSGD
from metarl.training import _improve, meta_steps
from metarl.types import Batch, Trace
from tests.helpers import (
    Countdown,
    Stub,
    TwoStates,
    categorical_policy,
    family_and_policy,
    gaussian_policy,
    linear,
    make_batch,
    randomize,
    seeded,
    table_policy,
)


def make_learner(seed: int = 0) -> Learner:
    policy = gaussian_policy(seed)
    return Learner(policy, MetaSGD(policy.initial(), initial=0.05), inner=vpg, outer=vpg)


def benchmark() -> Stub:
    return Stub(Navigation(horizon=5), "goal_x", 0.25)


PLAN = Plan(tasks=3, episodes=4, query_episodes=2, steps=2)


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in tree for leaf in tensors(part)]


@pytest.mark.parametrize("name", ["navigation", "cartpole"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_trace_has_one_batch_a_step_and_no_graph(steps: int, name: str) -> None:
    family, policy = family_and_policy(name)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.05), inner=vpg, outer=vpg)
    plan = Plan(tasks=3, episodes=4, query_episodes=2, steps=steps)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), plan, generator=seeded(1))
    assert isinstance(trace, Trace) and len(trace.support) == steps
    assert all(batch.reward.shape[::2] == (3, 4) for batch in trace.support)
    assert trace.query.reward.shape[::2] == (3, 2) and trace.outcome.shape == (3,)
    assert not any(leaf.requires_grad or leaf.grad_fn is not None for leaf in tensors(trace))
    assert all(p.grad is None for p in learner.parameters())
    assert bool(trace.query.advantage.any())


def test_every_batch_is_sampled_afresh() -> None:
    learner, family = make_learner(), Navigation(horizon=5)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), PLAN, generator=seeded(1))
    actions = [batch.action[:, :, 0] for batch in (*trace.support, trace.query)]
    assert not any(torch.equal(actions[i], actions[j]) for i in range(3) for j in range(i))


def test_the_adapted_policy_can_be_scored_by_other_rewards() -> None:
    given, other = RingNavigation(6, "squared"), RingNavigation(6, "distance")
    task = given.sample(3, generator=seeded(0))
    plain, scored = (
        explore(make_learner(), given, task, replace(PLAN, scored_in=which), generator=seeded(1))
        for which in (None, other)
    )
    for before, after in zip(plain.support, scored.support, strict=True):
        assert torch.equal(before.reward, after.reward)
    assert torch.equal(plain.query.action, scored.query.action) and bool(plain.support[0].reward.all())
    torch.testing.assert_close(scored.gain, scored.outcome)  # not minus a return in other units
    x, y = scored.query.last_observation.unbind(-1)  # where the last reward was given
    goal_x, goal_y = task["angle"].cos().unsqueeze(-1), task["angle"].sin().unsqueeze(-1)
    torch.testing.assert_close(scored.query.reward[:, -1], -torch.hypot(x - goal_x, y - goal_y))


def covering(seed: int = 0) -> Learner:
    policy = gaussian_policy(seed)
    rule = MetaSGD(policy.initial(), initial=0.05)
    return Learner(policy, rule, inner=vpg, outer=vpg, credit=PreUpdateCredit(1.0, coverage=0.5))


@pytest.mark.parametrize("scored_in", [None, RingNavigation(6, "distance")], ids=["by its own", "by other rewards"])
def test_an_episode_leads_by_how_much_closer_than_all_others_it_came(scored_in: RingNavigation | None) -> None:
    given = RingNavigation(6, "distance" if scored_in is None else "disc")
    task = given.sample(3, generator=seeded(0))
    plan, generators = replace(PLAN, scored_in=scored_in), (seeded(1), seeded(1))
    plain, found = (
        explore(learner, given, task, plan, generator=generator)
        for learner, generator in zip((make_learner(), covering()), generators, strict=True)
    )
    assert plain.leads == () and len(found.leads) == 2
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    for before, batch in zip((*plain.support, plain.query), (*found.support, found.query), strict=True):
        assert torch.equal(before.action, batch.action) and torch.equal(before.reward, batch.reward)
    goal = torch.stack([task["angle"].cos(), task["angle"].sin()], -1)
    for batch, lead in zip(found.support, found.leads, strict=True):
        visited = torch.cat([batch.observation[:, 1:], batch.last_observation.unsqueeze(1)], 1)
        closest = (visited - goal[:, None, None]).norm(dim=-1).amin(1).double()  # [T, N]
        by_hand = torch.zeros(3, 4, dtype=torch.float64)
        for t in range(3):
            ahead, behind = closest[t].sort().values[:2]
            by_hand[t, closest[t].argmin()] = behind - ahead
        by_hand -= by_hand.mean()
        torch.testing.assert_close(lead.double(), by_hand / by_hand.std(correction=0), rtol=1e-4, atol=1e-4)


def test_moments_after_the_end_and_shared_ones_lead_nobody() -> None:
    reward = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-1.0, -3.0], [-2.0, 0.0]]])  # [T, H, N]
    mask = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]]])
    tied = make_batch(torch.ones(1, 2), torch.ones(1, 2)).reward.unsqueeze(0)
    found = leads(make_batch(reward[0], mask[0])._replace(reward=reward, mask=mask))
    lead = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    torch.testing.assert_close(found, (lead - 0.75) / (lead - 0.75).square().mean().sqrt())
    assert not leads(make_batch(tied[0], tied[0])._replace(reward=tied, mask=tied)).any()
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        leads(make_batch(torch.ones(3, 1), torch.ones(3, 1)))


def test_credit_for_leads_is_the_gradient_of_the_best_moment() -> None:
    # All nine pairs of three arms, equally likely: their mean is the expectation, by enumeration.
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    worth = torch.tensor([0.3, 1.0, -0.2], dtype=torch.float64)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    p = logits.softmax(0)
    best = (p[pairs[:, 0]] * p[pairs[:, 1]] * worth[pairs].amax(1)).sum()
    (expected,) = torch.autograd.grad(best, logits, retain_graph=True)
    ones = torch.ones(9, 1, 2, dtype=torch.float64)
    batch = make_batch(ones[0], ones[0])._replace(reward=worth[pairs].unsqueeze(1), mask=ones)
    spread = float((worth[pairs] - worth[pairs].flip(1)).clamp_min(0.0).std(correction=0))
    credit = PreUpdateCredit(0.0, coverage=1.0)
    losses = [
        credit(Categorical(logits.expand(1, 2, 3)), one, torch.zeros(()), lead)
        for one, lead in zip(
            [
                make_batch(ones[0], ones[0], action=pair.unsqueeze(0))._replace(log_prob=ones[0] * math.log(1 / 3))
                for pair in pairs
            ],
            leads(batch),
            strict=True,
        )
    ]
    (found,) = torch.autograd.grad(torch.stack(losses).mean(), logits)
    torch.testing.assert_close(-2.0 * found * spread, expected, rtol=1e-6, atol=1e-9)  # a mean over two steps


def test_leads_need_the_same_episodes() -> None:
    given, other = RingNavigation(6), Slipping(RingNavigation(6, "distance"), 0.5)
    task = given.sample(3, generator=seeded(0))
    with pytest.raises(ValueError, match="expected scored_in to differ only in its rewards"):
        explore(covering(), given, task, replace(PLAN, scored_in=other), generator=seeded(1))


def test_the_outcome_is_the_score_against_the_other_tasks() -> None:
    learner, family = make_learner(), Navigation(horizon=5)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), PLAN, generator=seeded(1))
    scores = [sum(trace.query.reward[t].flatten().tolist()) / 2 for t in range(3)]
    length = 5  # nobody reaches a goal: every episode lasts the whole horizon, and losses are means over steps
    expected = [(scores[t] - sum(scores[:t] + scores[t + 1 :]) / 2) / length for t in range(3)]
    torch.testing.assert_close(trace.outcome, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    alone = explore(learner, family, family.sample(1, generator=seeded(0)), PLAN, generator=seeded(1))
    assert alone.outcome.tolist() == [0.0]


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("kind", ["descent", "trust_region", "reptile"])
def test_every_meta_optimizer_works_for_every_number_of_steps(kind: str, steps: int) -> None:
    learner = make_learner()
    optimizer: Any = {"descent": Descent(learner), "trust_region": TrustRegion(), "reptile": Reptile()}[kind]
    plan = Plan(tasks=3, episodes=4, query_episodes=4, steps=steps)
    before = [p.detach().clone() for p in learner.policy.parameters()]
    family = Navigation(horizon=5)
    task = family.sample(3, generator=seeded(0))
    metrics = meta_step(learner, optimizer, family, task, plan, generator=seeded(1))
    assert metrics["meta/skipped"] == 0.0
    assert {f"return/step_{k}" for k in range(steps + 1)} <= metrics.keys()
    assert f"return/step_{steps + 1}" not in metrics
    assert all(isinstance(value, float) for value in metrics.values())
    assert any(not torch.equal(p, old) for p, old in zip(learner.policy.parameters(), before, strict=True))


def test_without_steps_it_is_multi_task_policy_gradient() -> None:
    learner = make_learner()
    plan = Plan(tasks=3, episodes=4, query_episodes=4, steps=0)
    family = Navigation(horizon=5)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), plan, generator=seeded(1))
    q = trace.query
    flat = q._replace(**{name: getattr(q, name).flatten(0, 1) for name in ("observation", "action")})
    log_prob = learner.policy(learner.policy.initial(), flat.observation).log_prob(flat.action)
    assert bool((q.mask == 1).all())  # equal counts a task: the mean of means is the mean
    (log_prob * q.advantage.flatten(0, 1)).mean().neg().backward()
    expected = {name: p.grad.clone() for name, p in learner.policy.named_parameters()}  # type: ignore[union-attr]
    learner.zero_grad()
    torch.vmap(learner)(trace).mean().backward()
    for name, p in learner.policy.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_the_step_counter_counts_environment_steps_really_taken() -> None:
    # lives of 2..., horizon 6: row n of task t lives min(life + n, 6) steps, whatever was planned
    family = Countdown(6, after=0.0)
    policy = gaussian_policy(hidden=(3,), observations=1, actions=1)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.01), inner=vpg, outer=vpg)
    plan = Plan(tasks=2, episodes=3, query_episodes=2, steps=2)
    task = {"life": torch.tensor([2.0, 5.0])}
    metrics = meta_step(learner, Descent(learner), family, task, plan, generator=seeded(0))

    def lived(episodes: int) -> int:
        return sum(min(life + n, 6) for life in (2, 5) for n in range(episodes))

    assert metrics["env_steps"] == 2 * lived(3) + lived(2)
    for step, episodes in enumerate((3, 3, 2)):
        returns = [sum(range(1, min(life + n, 6) + 1)) for life in (2, 5) for n in range(episodes)]
        assert metrics[f"return/step_{step}"] == pytest.approx(sum(returns) / len(returns))


def train(iterations: int = 3, start: int = 0, learner: Learner | None = None) -> tuple[Learner, list[Any]]:
    learner = learner or make_learner()
    loop = meta_train(
        learner,
        Descent(learner, lr=0.01),
        benchmark(),
        PLAN,
        generator=seeded(1),
        task_generator=seeded(2),
        start=start,
    )
    done = itertools.islice(loop, iterations)
    untimed = [(i, {k: v for k, v in metrics.items() if not k.startswith("time/")}) for i, metrics in done]
    return learner, untimed


def test_the_same_seeds_give_the_same_bits() -> None:
    torch.manual_seed(0)
    one, first = train()
    torch.manual_seed(1)  # nothing depends on the global stream
    before = torch.get_rng_state()
    two, second = train()
    assert torch.equal(torch.get_rng_state(), before)
    assert first == second and [i for i, _ in first] == [1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert len({metrics["return/step_0"] for _, metrics in first}) == 3  # new tasks every iteration
    assert [i for i, _ in train(iterations=2, start=3)[1]] == [4, 5]


def test_only_training_tasks_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = exploration_module.roll_out

    def recording(policy: Any, params: Any, family: Any, task: Any, *args: Any, **kwargs: Any) -> Batch:
        seen.append(task)
        return real(policy, params, family, task, *args, **kwargs)

    monkeypatch.setattr(exploration_module, "roll_out", recording)
    train()
    assert len(seen) == 9
    assert all(bool(benchmark().is_training(task).all()) for task in seen)
    for i in range(0, 9, 3):  # the three rollouts of an iteration are of one and the same task
        assert all(torch.equal(seen[i]["goal_y"], seen[i + j]["goal_y"]) for j in (1, 2))


def test_tasks_do_not_depend_on_the_algorithm() -> None:
    """Two algorithms that consume rollout noise differently train on the same tasks."""
    drawn = []
    for steps in (0, 2):
        learner, task_generator = make_learner(), seeded(2)
        plan = Plan(tasks=3, episodes=2, query_episodes=2, steps=steps)
        loop = meta_train(learner, Reptile(), benchmark(), plan, generator=seeded(1), task_generator=task_generator)
        list(itertools.islice(loop, 2))
        drawn.append(benchmark().sample("train", 3, generator=task_generator)["goal_x"])
    assert torch.equal(*drawn)


def test_meta_train_is_lazy_and_can_be_stopped() -> None:
    learner = make_learner()
    before = [p.detach().clone() for p in learner.parameters()]
    loop = meta_train(learner, Descent(learner), benchmark(), PLAN, generator=seeded(1), task_generator=seeded(2))
    assert all(torch.equal(p, old) for p, old in zip(learner.parameters(), before, strict=True))
    assert next(loop)[0] == 1
    loop.close()  # type: ignore[attr-defined]


def test_time_limited_tasks_can_be_bootstrapped_in_training() -> None:
    family, policy = TwoStates(), table_policy([[0.0, 0.0], [0.0, 0.0]]).float()
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.1), inner=lvc, outer=vpg)
    estimate = Advantages(time_limit="bootstrap")
    plan = Plan(tasks=4, episodes=6, query_episodes=6, steps=2, support=estimate, query=estimate)
    metrics = meta_step(
        learner, Descent(learner), family, family.sample(4, generator=seeded(0)), plan, generator=seeded(1)
    )
    assert metrics["meta/skipped"] == 0.0


@pytest.mark.parametrize("bad", [{"tasks": 0}, {"episodes": 0}, {"query_episodes": 0}, {"steps": -1}])
def test_plans_that_sample_nothing_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Plan(**bad)


@pytest.mark.parametrize("which", ["support", "query"])
def test_advantages_that_are_none_are_refused(which: str) -> None:
    with pytest.raises(TypeError, match=rf"{which}: expected advantages, such as Advantages.*got 0.99"):
        Plan(**{which: 0.99})  # type: ignore[arg-type]


def test_a_task_is_adapted_to_by_itself() -> None:
    with pytest.raises(ValueError, match="inner loss: expected scale='task', got 'tasks'"):
        Plan(support=Advantages(scale="tasks"))
    assert Plan(query=Advantages(scale="tasks")).query.scale == "tasks"


# Many learners side by side.

SEEDS = (0, 1, 2)


def side_by_side(name: str) -> tuple[Any, list[Learner], list[dict[str, Tensor]]]:
    """A family that ends episodes early, three learners of one architecture in float64, and tasks for each."""
    family: Any = Navigation(horizon=12, box=0.2) if name == "navigation" else CartPole(horizon=30, half_length=0.1)
    learners = []
    for seed in SEEDS:
        policy = gaussian_policy(seed) if name == "navigation" else categorical_policy(seed)
        learner = Learner(policy, MetaSGD(policy.initial(), initial=0.1), inner=vpg, outer=vpg).double()
        randomize(learner, seed, 0.05)
        learners.append(learner)
    tasks = [family.sample(3, generator=seeded(10 + seed)) for seed in SEEDS]
    return family, learners, [{key: value.double() for key, value in task.items()} for task in tasks]


def streams() -> list[torch.Generator]:
    return [seeded(20 + seed) for seed in SEEDS]


def assert_same_but_for_padding(wide: Batch, alone: Batch) -> None:
    """``wide`` may go on after the last episode of ``alone`` has ended, with padding only."""
    steps = alone.reward.shape[1]
    assert wide.reward.shape[0] == alone.reward.shape[0] and wide.reward.shape[1] >= steps
    for name, found, expected in zip(Batch._fields, wide, alone, strict=True):
        for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
            if name == "live":  # another way to say where the mask is 1, see test_packing.py
                continue
            if name == "last_observation":
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
                continue
            torch.testing.assert_close(one[:, :steps], other, rtol=1e-8, atol=1e-8)
            assert name == "distribution" or not one[:, steps:].any(), name


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_learners_explored_together_get_what_each_gets_alone(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "BLOCK", 1)  # a batch is as long as its longest episode
    family, learners, tasks = side_by_side(name)
    estimate = Advantages(time_limit="bootstrap")
    plan = Plan(tasks=3, episodes=4, query_episodes=2, steps=steps, query=estimate)
    generators, own = streams(), streams()
    together = explore_together(learners, family, tasks, plan, generators=generators)
    alone = [
        explore(learner, family, task, plan, generator=generator)
        for learner, task, generator in zip(learners, tasks, own, strict=True)
    ]
    assert len(together) == 3
    for wide, trace in zip(together, alone, strict=True):
        assert len(wide.support) == steps and not any(leaf.requires_grad for leaf in tensors(wide))
        for found, expected in zip((*wide.support, wide.query), (*trace.support, trace.query), strict=True):
            assert_same_but_for_padding(found, expected)
        torch.testing.assert_close(wide.outcome, trace.outcome, rtol=1e-8, atol=1e-8)
    for one, other in zip(generators, own, strict=True):
        assert torch.equal(one.get_state(), other.get_state())
    lengths = {batch.reward.shape[1] for trace in alone for batch in (*trace.support, trace.query)}
    assert any(bool(trace.query.terminated.any()) for trace in alone)
    assert name == "navigation" or len(lengths) > 1  # some were padded beyond what they are alone
    assert not torch.equal(*(trace.query.observation[:, 1] for trace in together[:2]))


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_learners_trained_together_become_what_each_becomes_alone(name: str, steps: int) -> None:
    family, learners, tasks = side_by_side(name)
    lonely = side_by_side(name)[1]
    start = [p.detach().clone() for p in learners[2].parameters()]
    plan = Plan(tasks=3, episodes=4, query_episodes=4, steps=steps)
    optimizers, others = [Descent(one, lr=0.01) for one in learners], [Descent(one, lr=0.01) for one in lonely]
    generators, own = streams(), streams()
    for _ in range(2):
        found = meta_steps(learners, optimizers, family, tasks, plan, generators=generators)
        expected = [
            meta_step(learner, optimizer, family, task, plan, generator=g)
            for learner, optimizer, task, g in zip(lonely, others, tasks, own, strict=True)
        ]
        for metrics, same in zip(found, expected, strict=True):
            assert untimed(metrics) == pytest.approx(untimed(same), rel=1e-6, abs=1e-8)
            assert metrics.keys() == same.keys() and metrics["time/explore"] == found[0]["time/explore"]
    for learner, other in zip(learners, lonely, strict=True):
        for p, q in zip(learner.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(generators, own, strict=True))
    moved = [float((p.detach() - old).abs().max()) for p, old in zip(learners[2].parameters(), start, strict=True)]
    assert max(moved) > 1e-3


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_one_learner_alone_gets_the_bits_of_a_plain_loop(name: str, steps: int) -> None:
    family, learners, tasks = side_by_side(name)
    learner, task = learners[0].float(), {key: value.float() for key, value in tasks[0].items()}
    plan = Plan(tasks=3, episodes=4, query_episodes=2, steps=steps)
    first, second = seeded(1), seeded(1)
    (trace,) = explore_together([learner], family, [task], plan, generators=[first])
    (params, state), batches = learner.start(), []
    for _ in range(steps):
        batches.append(plan.support(collect(learner.policy, params, family, task, 4, generator=second)))
        params, state = step_tasks(learner, params, state, batches[-1])
    batches.append(plan.query(collect(learner.policy, params, family, task, 2, generator=second)))
    found = tensors((*trace.support, trace.query))
    assert all(torch.equal(a, b) for a, b in zip(found, tensors(batches), strict=True))
    assert torch.equal(first.get_state(), second.get_state())


def test_what_a_warm_start_sees_does_not_depend_on_who_explores_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "BLOCK", 1)  # a batch is as long as its longest episode
    family, learners, tasks = side_by_side("cartpole")
    for seed, learner in zip(SEEDS, learners, strict=True):
        start = WarmStart(units=4, generator=seeded(seed))
        randomize(start, seed, 1.0)
        learner.inner = LearnedObjective(vpg, Advantages(0.9, 0.8), warm_start=start).double()
    plan = Plan(tasks=3, episodes=4, query_episodes=2, steps=2)
    together = explore_together(learners, family, tasks, plan, generators=streams())
    alone = [
        explore(learner, family, task, plan, generator=generator)
        for learner, task, generator in zip(learners, tasks, streams(), strict=True)
    ]
    shorter = 0
    for wide, trace in zip(together, alone, strict=True):
        for found, expected in zip((*wide.support, wide.query), (*trace.support, trace.query), strict=True):
            assert_same_but_for_padding(found, expected)
            shorter += expected.reward.shape[1] < found.reward.shape[1]
    assert shorter > 2


def test_environment_steps_are_counted_exactly() -> None:
    """Also beyond 2^24, above which float32 has even numbers alone."""
    learner, family = make_learner(), Navigation(horizon=5)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), PLAN, generator=seeded(1))
    long = torch.ones(1, 1, 1).expand(3, 5_592_407, 1)

    class Looking(Reptile):
        def step(self, learner: Learner, trace: Trace) -> dict[str, float]:
            return {}

    found = _improve(learner, Looking(), trace._replace(support=(), query=trace.query._replace(mask=long)))
    assert found["env_steps"] == 3 * 5_592_407 == 2**24 + 5


def test_policies_that_use_a_layer_twice_are_explored_together() -> None:
    """The layer's second name is in the ``state_dict``, too, but its weights are learned."""
    family, plan = CartPole(horizon=5), Plan(tasks=2, episodes=2, query_episodes=2)
    learners = []
    for seed in (0, 1):
        layer = linear(4, 4, seed=seed)
        network = torch.nn.Sequential(layer, torch.nn.Tanh(), layer, linear(4, 2, seed=seed + 2))
        learners.append(Learner(CategoricalPolicy(ModuleNetwork(network)), SGD(0.1), inner=vpg, outer=vpg))
    tasks = [family.sample(2, generator=seeded(seed)) for seed in (0, 1)]
    together = explore_together(learners, family, tasks, plan, generators=[seeded(0), seeded(1)])
    for seed, (learner, task) in enumerate(zip(learners, tasks, strict=True)):
        alone = explore(learner, family, task, plan, generator=seeded(seed))
        assert torch.equal(together[seed].query.action, alone.query.action)


def test_learners_that_cannot_be_explored_together_are_refused() -> None:
    family, plan = CartPole(horizon=5), Plan(tasks=2, episodes=2, query_episodes=2, steps=0)
    learners = []
    for fixed in (1.0, 2.0):
        module = torch.nn.Sequential(linear(4, 2, seed=0))
        module.register_buffer("offset", torch.tensor([fixed]))  # one learner's policy acts for all: it must fit all
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(fixed)
        policy = CategoricalPolicy(ModuleNetwork(module))
        learners.append(Learner(policy, MetaSGD(policy.initial(), initial=0.1), inner=vpg, outer=vpg))
    tasks = [family.sample(2, generator=seeded(seed)) for seed in (0, 1)]
    with pytest.raises(ValueError, match="offset"):
        explore_together(learners, family, tasks, plan, generators=[seeded(0), seeded(1)])
    learners[1].policy.load_state_dict(learners[0].policy.state_dict())
    assert len(explore_together(learners, family, tasks, plan, generators=[seeded(0), seeded(1)])) == 2
    uneven = [tasks[0], family.sample(4, generator=seeded(1))]
    with pytest.raises(ValueError, match="equal"):
        explore_together(learners, family, uneven, plan, generators=[seeded(0), seeded(1)])


def test_policies_of_another_make_are_not_explored_together() -> None:
    family, plan = Navigation(5), Plan(tasks=2, episodes=2, query_episodes=2, steps=0)
    tasks = [family.sample(2, generator=seeded(seed)) for seed in (0, 1)]

    def together(*policies: GaussianPolicy) -> list[Trace]:
        learners = [Learner(one, SGD(0.1), inner=vpg, outer=vpg) for one in policies]
        return explore_together(learners, family, tasks, plan, generators=[seeded(0), seeded(1)])

    def policy(activation: Callable[[Tensor], Tensor] = torch.tanh, **settings: float) -> GaussianPolicy:
        return GaussianPolicy(MLP(2, [4], 2, activation=activation, generator=seeded(0)), 2, **settings)

    assert len(together(policy(), policy())) == 2
    for other in (policy(torch.relu), policy(min_log_std=-1.0)):
        with pytest.raises(ValueError, match="differ in their settings, such as the activation"):
            together(policy(), other)


def test_the_gain_is_what_adapting_added_against_the_other_tasks() -> None:
    learner, family = make_learner(), Navigation(horizon=5)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), PLAN, generator=seeded(1))
    gains = (trace.query.episode_return.mean(-1) - trace.support[0].episode_return.mean(-1)).tolist()
    expected = [(gains[t] - sum(gains[:t] + gains[t + 1 :]) / 2) / 5 for t in range(3)]
    torch.testing.assert_close(trace.gain, torch.tensor(expected), rtol=1e-4, atol=1e-5)


class Exploding(SGD):
    """Leaves the finite numbers at its second step, on tasks whose gradient is not small."""

    def init(self, params: Any) -> dict[str, Tensor]:
        return {"count": torch.zeros(())}

    def update(self, step: Any, state: dict[str, Tensor]) -> Any:
        updates, _ = super().update(step, {})
        broken = state["count"] >= 1.0
        return {name: torch.where(broken, u / 0.0, u) for name, u in updates.items()}, {"count": state["count"] + 1}


def test_a_rule_that_diverges_is_named_with_task_and_step() -> None:
    learner, family = Learner(gaussian_policy(), Exploding(0.1), inner=vpg, outer=vpg), Navigation(horizon=5)
    plan = Plan(tasks=3, episodes=4, query_episodes=4, steps=2)
    task = family.sample(3, generator=seeded(0))
    for run in (
        lambda: explore(learner, family, task, plan, generator=seeded(1)),
        lambda: adaptation_curve(learner, family, task, Adaptation(2, 4, 4), generator=seeded(1)),
    ):
        with pytest.raises(NonFiniteError, match=r"rule Exploding diverged.*task 0 \(3 of 3 tasks\).*step 2"):
            run()


def test_broken_iterations_are_survived_as_configured() -> None:
    family = Navigation(horizon=5)
    plan = Plan(tasks=3, episodes=4, query_episodes=4, steps=2)

    def train(patience: int) -> list[tuple[int, dict[str, float]]]:
        learner = Learner(gaussian_policy(), Exploding(0.1), inner=vpg, outer=vpg)
        before = [p.detach().clone() for p in learner.parameters()]
        run = meta_train(
            learner, Descent(learner), Stub(family, "goal_x", 0.2), plan,
            generator=seeded(0), task_generator=seeded(1), patience=patience,
        )  # fmt: skip
        found = []
        with pytest.raises(NonFiniteError, match="diverged"):
            for one in run:
                found.append(one)  # noqa: PERF402 (it raises)
        assert all(torch.equal(p, old) for p, old in zip(learner.parameters(), before, strict=True))
        return found

    assert train(0) == []
    survived = train(2)
    assert [iteration for iteration, _ in survived] == [1, 2]
    for _, metrics in survived:
        assert metrics["meta/skipped"] == 1.0 and metrics["env_steps"] == 3 * 5 * (2 * 4 + 4)
        assert all(math.isnan(metrics[f"return/step_{k}"]) for k in range(3))


@pytest.mark.parametrize("scored_in", [None, Navigation(horizon=7)], ids=["by its own", "by a longer one"])
def test_a_broken_iteration_costs_what_the_whole_team_could_have_played(scored_in: Navigation | None) -> None:
    plan = Plan(tasks=3, episodes=4, query_episodes=2, steps=2, scored_in=scored_in)
    query = 5 if scored_in is None else 7
    for make, team in ((lambda one: Descent(one), 1), (lambda one: Evolution(one, pairs=2), 4)):
        learner = Learner(gaussian_policy(), Exploding(0.1), inner=vpg, outer=vpg)
        _, metrics = next(
            meta_train(
                learner, make(learner), Stub(Navigation(horizon=5), "goal_x", 0.2), plan,
                generator=seeded(0), task_generator=seeded(1), patience=1,
            )
        )  # fmt: skip
        assert metrics["meta/skipped"] == 1.0
        assert metrics["env_steps"] == team * 3 * (2 * 4 * 5 + 2 * query)


def test_a_family_is_no_benchmark() -> None:
    learner = Learner(gaussian_policy(), SGD(0.1), inner=vpg, outer=vpg)
    family: Any = Navigation(5)
    with pytest.raises(TypeError, match=r"TaskBenchmark\(name, family\) makes one"):
        next(meta_train(learner, Reptile(), family, PLAN, generator=seeded(0), task_generator=seeded(1)))


def test_as_many_optimizers_as_learners() -> None:
    learner = make_learner()
    with pytest.raises(
        ValueError, match="expected equally many of each, got 2 learners, 1 optimizers, 1 task sets, 1 gen"
    ):
        family, task = Navigation(3), Navigation(3).sample(3, generator=seeded(0))
        meta_steps([learner, learner], [Reptile()], family, [task], PLAN, generators=[seeded(1)])
