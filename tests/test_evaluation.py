"""Adaptation curves against a plain loop; only held-out tasks are accepted; the learner is left unchanged."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from torch import Tensor, nn

from envs import CartPole, Navigation, Range
from metarl import (
    MLP,
    Advantages,
    CategoricalPolicy,
    Descent,
    GaussianPolicy,
    Learner,
    ModuleNetwork,
    Plan,
    TrainingTaskError,
    adapt,
    adaptation_curve,
    collect,
    evaluate,
    meta_train,
    vpg,
)
from metarl import evaluation as evaluation_module
from metarl.evaluation import Adaptation, AdaptationCurve, in_chunks
from metarl.learner import step_tasks
from metarl.policies import Policy, refuse_misfit
from metarl.rules import SGD, PerLayerSGD, PerStep, layer_of
from metarl.types import Batch
from tests.helpers import Stub, categorical_policy, gaussian_policy, one_task, randomize, seeded


def make_learner(policy: Policy | None = None) -> Learner:
    policy = policy or gaussian_policy()
    rule = PerStep(*(PerLayerSGD(policy.initial(), initial=0.1) for _ in range(2)))
    learner = Learner(policy, rule, inner=vpg, outer=vpg)
    randomize(learner.rule, 3, 0.05)  # every step and layer has a rate of its own
    return learner


def benchmark() -> Stub:
    return Stub(Navigation(horizon=5), "goal_x", 0.0)


def curve(learner: Learner, steps: int = 3, seed: int = 1, tasks: int = 3, **fields: Any) -> AdaptationCurve:
    family = Navigation(horizon=5)
    adaptation = Adaptation(steps=steps, episodes=4, score_episodes=6, **fields)
    return adaptation_curve(
        learner, family, family.sample(tasks, generator=seeded(0)), adaptation, generator=seeded(seed)
    )


@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_a_curve_equals_a_hand_rolled_loop(name: str) -> None:
    # One task after another by explicit autograd, on the episodes that the curve itself sampled; per-step
    # rates, and one step more than the rule has rates for.
    family: Any = Navigation(horizon=5) if name == "navigation" else CartPole(30, half_length=0.2)
    learner = make_learner(gaussian_policy() if name == "navigation" else categorical_policy())
    learner.double()
    task = {key: value.double() for key, value in family.sample(3, generator=seeded(0)).items()}
    support = Advantages(decay=0.9)
    found = adaptation_curve(learner, family, task, Adaptation(3, 4, 6, support), generator=seeded(1))
    generator, spent = seeded(1), torch.zeros(3)
    params = [{key: p.detach().clone() for key, p in learner.policy.named_parameters()} for _ in range(3)]
    rates = [{key: p.detach() for key, p in rule.rates().items()} for rule in learner.rule.rules]  # type: ignore[union-attr]
    for k in range(4):
        stacked = {key: torch.stack([own[key] for own in params]) for key in params[0]}

        def roll(episodes: int, act: Any = "sample", stacked: dict[str, Tensor] = stacked) -> Batch:
            return collect(learner.policy, stacked, family, task, episodes, generator=generator, act=act)

        scored, greedy = roll(6), roll(6, act="mode")
        torch.testing.assert_close(found.sampled[:, k], scored.reward.sum(1).mean(1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.mode[:, k], greedy.reward.sum(1).mean(1), rtol=1e-9, atol=1e-9)
        assert found.adaptation_steps[:, k].tolist() == spent.tolist()
        assert found.adaptation_episodes[:, k].tolist() == [4.0 * k] * 3
        batch = support(roll(4))
        spent = spent + batch.mask.sum((1, 2))
        for t in range(3):
            leaves = {key: p.requires_grad_() for key, p in params[t].items()}
            one = one_task(batch, t)
            log_prob = learner.policy(leaves, one.observation).log_prob(one.action)
            loss = -(log_prob * one.advantage * one.mask).sum() / one.mask.sum()
            grads = torch.autograd.grad(loss, list(leaves.values()))
            params[t] = {
                key: (p - rates[min(k, 1)][layer_of(key)] * g).detach()
                for (key, p), g in zip(leaves.items(), grads, strict=True)
            }


def test_the_episodes_adapted_on_are_never_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    rolled: list[tuple[str, Batch]] = []
    adapted_on: list[Tensor] = []
    real, learner = evaluation_module.collect, make_learner()

    def recording(*args: Any, act: str = "sample", **kwargs: Any) -> Batch:
        rolled.append((act, real(*args, act=act, **kwargs)))
        return rolled[-1][1]

    class Spy(Advantages):
        def __call__(self, batch: Batch) -> Batch:
            adapted_on.append(batch.action)
            return super().__call__(batch)

    monkeypatch.setattr(evaluation_module, "collect", recording)
    found = curve(learner, steps=2, support=Spy())
    assert [act for act, _ in rolled] == ["sample", "mode", "sample"] * 2 + ["sample", "mode"]
    assert [batch.action.shape[2] for _, batch in rolled] == [6, 6, 4] * 2 + [6, 6]
    scored = [rolled[i][1] for i in (0, 3, 6)]
    for k, batch in enumerate(scored):
        assert torch.equal(found.sampled[:, k], batch.episode_return.mean(-1))
    assert [torch.equal(a, rolled[i][1].action) for a, i in zip(adapted_on, (2, 5), strict=True)] == [True, True]
    for used in adapted_on:
        assert not any(torch.equal(used[:, :, 0], batch.action[:, :, n]) for batch in scored for n in range(6))


def test_sampled_and_mode_scores_are_both_there_and_differ() -> None:
    found = curve(make_learner(), steps=1)
    assert found.sampled.shape == found.mode.shape == (3, 2)
    assert not torch.equal(found.sampled, found.mode)
    still = make_learner()
    with torch.no_grad():
        still.policy.log_std.fill_(-20.0)  # type: ignore[union-attr, operator]
        still.policy.min_log_std = -20.0  # type: ignore[assignment]
    zero = curve(still, steps=0)
    torch.testing.assert_close(zero.sampled, zero.mode, rtol=1e-5, atol=1e-5)


def test_no_steps_give_one_column() -> None:
    found = curve(make_learner(), steps=0)
    assert found.sampled.shape == (3, 1)
    assert found.adaptation_steps.tolist() == found.adaptation_episodes.tolist() == [[0.0]] * 3


def test_more_steps_do_not_change_the_earlier_ones() -> None:
    learner = make_learner()
    short, long = curve(learner, steps=1), curve(learner, steps=4)
    assert torch.equal(short.sampled, long.sampled[:, :2]) and long.sampled.shape == (3, 5)


def test_learners_are_compared_on_common_noise() -> None:
    one, same, other = curve(make_learner()), curve(make_learner()), curve(make_learner(), seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.sampled, other.sampled)


def test_chunks_hold_a_hundred_tasks_and_what_comes_of_them_is_joined() -> None:
    task, seen = {"x": torch.arange(250.0)}, []

    def doubled(part: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        seen.append(part["x"].tolist())
        return 2 * part["x"], part["x"].unsqueeze(-1)

    twice, once = in_chunks(doubled, task)
    assert [len(one) for one in seen] == [100, 100, 50] and sum(seen, []) == list(range(250))
    assert torch.equal(twice, 2 * task["x"]) and torch.equal(once[:, 0], task["x"])


@pytest.mark.parametrize("where", [0, 4])
def test_training_tasks_are_refused(where: int) -> None:
    task = benchmark().sample("test", 5, generator=seeded(0))
    kwargs: dict[str, Any] = {"generator": seeded(1)}
    adaptation = Adaptation(steps=1, episodes=2, score_episodes=2)
    assert evaluate(make_learner(), benchmark(), task, adaptation, **kwargs).sampled.shape == (5, 2)
    task["goal_x"][where] = -0.1
    with pytest.raises(TrainingTaskError, match="1 of 5 tasks are training tasks of 'stub'"):
        evaluate(make_learner(), benchmark(), task, adaptation, **kwargs)
    with pytest.raises(TrainingTaskError, match="3 of 3"):
        evaluate(make_learner(), benchmark(), benchmark().sample("train", 3, generator=seeded(0)), adaptation, **kwargs)


def test_a_family_is_no_benchmark() -> None:
    family, adaptation = Navigation(), Adaptation(steps=1, episodes=2, score_episodes=2)
    with pytest.raises(TypeError, match="expected one with held-out splits, got a Navigation; TaskBenchmark"):
        evaluate(make_learner(), family, family.sample(2, generator=seeded(0)), adaptation, generator=seeded(1))  # type: ignore[arg-type]


def test_a_chunked_evaluation_is_its_chunks_one_after_another() -> None:
    learner, task = make_learner(), benchmark().sample("test", 5, generator=seeded(0))
    adaptation = Adaptation(steps=1, episodes=2, score_episodes=2)
    found = evaluate(learner, benchmark(), task, adaptation, generator=seeded(1), chunk=2)
    generator = seeded(1)
    parts = [
        adaptation_curve(
            learner, benchmark().family, {k: v[low : low + 2] for k, v in task.items()}, adaptation, generator=generator
        )
        for low in (0, 2, 4)
    ]
    for k, field in enumerate(found):
        assert torch.equal(field, torch.cat([part[k] for part in parts])) and field.shape == (5, 2)
    whole = evaluate(learner, benchmark(), task, adaptation, generator=seeded(1), chunk=100)
    alone = adaptation_curve(learner, benchmark().family, task, adaptation, generator=seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))
    for bad_task, chunk, words in ((task, 0, "chunk must be"), ({k: v[:0] for k, v in task.items()}, 5, "one task")):
        with pytest.raises(ValueError, match=f"{words}.* got 0"):
            evaluate(learner, benchmark(), bad_task, adaptation, generator=seeded(1), chunk=chunk)


def test_evaluating_changes_neither_the_learner_nor_the_training() -> None:
    def train(evaluating: bool) -> tuple[Learner, list[float]]:
        learner, returns = make_learner(), []
        plan = Plan(tasks=2, episodes=2, query_episodes=2, steps=1)
        loop = meta_train(learner, Descent(learner), benchmark(), plan, generator=seeded(1), task_generator=seeded(2))
        for _, metrics in itertools.islice(loop, 3):
            returns.append(metrics["return/step_0"])
            if evaluating:
                before = {key: value.clone() for key, value in learner.state_dict().items()}
                held_out = benchmark().sample("test", 3, generator=seeded(9))
                evaluate(learner, benchmark(), held_out, Adaptation(episodes=2), generator=seeded(8))
                assert all(torch.equal(before[key], value) for key, value in learner.state_dict().items())
        return learner, returns

    torch.manual_seed(0)
    state = torch.get_rng_state()
    (one, first), (two, second) = train(True), train(False)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_curve_keeps_no_graph() -> None:
    learner = make_learner()
    assert not any(field.requires_grad for field in curve(learner))
    assert all(p.grad is None for p in learner.parameters())


@pytest.mark.parametrize("bad", [{"steps": -1}, {"episodes": 0}, {"score_episodes": 0}])
def test_counts_that_measure_nothing_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Adaptation(**bad)


def test_an_adaptation_is_taken_step_by_step_when_asked_for() -> None:
    """K + 1 stages; each equals a step by hand on the same episodes, and nothing is drawn before it is asked for."""
    learner = Learner(gaussian_policy(), SGD(0.1), inner=vpg, outer=vpg)
    family, adaptation = Navigation(5), Adaptation(steps=2, episodes=3)
    task = family.sample(4, generator=seeded(0))
    first, second = seeded(1), seeded(1)
    params, state = learner.start()
    stages = adapt(learner, family, task, adaptation, generator=first)
    assert next(stages).batch is None and torch.equal(first.get_state(), second.get_state())
    for stage in stages:
        batch = adaptation.support(collect(learner.policy, params, family, task, 3, generator=second))
        params, state = step_tasks(learner, params, state, batch)
        assert torch.equal(first.get_state(), second.get_state())
        assert stage.batch is not None and torch.equal(stage.batch.advantage, batch.advantage)
        assert all(torch.equal(stage.params[name], leaf) and not leaf.requires_grad for name, leaf in params.items())
    assert params["log_std"].shape == (4, 2)


@pytest.mark.parametrize(
    ("constants", "words"),
    [({"polarty": 1.0}, "did you mean 'polarity'"), ({"half_length": -3.0}, "half_length: expected"),
     ({}, "'polarity' is missing")],
)  # fmt: skip
def test_a_task_that_the_family_has_no_equations_for_is_refused(constants: dict[str, float], words: str) -> None:
    family = CartPole(5)
    task = family.task() | {name: torch.tensor([value]) for name, value in constants.items()}
    if not constants:
        del task["polarity"]
    learner = Learner(categorical_policy(), SGD(0.1), inner=vpg, outer=vpg)
    with pytest.raises(ValueError, match=words):
        next(adapt(learner, family, task, Adaptation(), generator=seeded(0)))


def test_a_task_of_ones_own_has_what_is_fixed_or_usual_for_the_rest() -> None:
    family = CartPole(5, gravity=12.0, half_length=Range(0.3, 0.9))
    task = family.task(cart_mass=2.0)
    assert {name: value.tolist() for name, value in task.items()} == {
        name: pytest.approx([{"gravity": 12.0, "cart_mass": 2.0}.get(name, parameter.default)])
        for name, parameter in family.parameters.items()
    }
    with pytest.raises(ValueError, match="cart_mass: expected"):
        family.task(cart_mass=-2.0)
    with pytest.raises(ValueError, match="no constant 'mass'"):
        family.task(mass=2.0)


MISFITS = {
    "another kind": (CategoricalPolicy(MLP(2, [3], 2, generator=seeded(0))), "expected a GaussianPolicy for 2 actions"),
    "observations": (
        GaussianPolicy(MLP(3, [4], 2, generator=seeded(0)), 2),
        "MLP of 2 inputs and 2 outputs, got 3 inputs and 2 outputs",
    ),
    "actions": (
        GaussianPolicy(MLP(2, [], 1, generator=seeded(0)), 1),
        "MLP of 2 inputs and 2 outputs, got 2 inputs and 1 outputs",
    ),
}


@pytest.mark.parametrize("policy", MISFITS)
def test_a_policy_that_does_not_fit_is_refused_before_anything_is_played(policy: str) -> None:
    misfit, words = MISFITS[policy]
    learner = Learner(misfit, SGD(0.1), inner=vpg, outer=vpg)
    family, target = Navigation(horizon=5), benchmark()
    with pytest.raises(ValueError, match=words):
        next(adapt(learner, family, family.sample(2, generator=seeded(0)), Adaptation(), generator=seeded(0)))
    streams = {"generator": seeded(0), "task_generator": seeded(1)}
    with pytest.raises(ValueError, match=words):
        next(meta_train(learner, Descent(learner), target, Plan(tasks=2, episodes=2), **streams))
    told = MLP(2, [4], 2, context=3, generator=seeded(0))
    for fitting in (gaussian_policy(), GaussianPolicy(told, 2), GaussianPolicy(ModuleNetwork(nn.Linear(2, 2)), 2)):
        refuse_misfit(fitting, family)
    refuse_misfit(categorical_policy(), CartPole(5))


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (Box(-1, 1, (2,)), MultiDiscrete([3, 4])),
        (Box(-1, 1, (2,)), MultiBinary(2)),
        (Box(-1, 1, (2,)), Box(-1, 1, (2, 1))),
        (Box(-1, 1, (2,)), Box(-4, 4, (2,), dtype=np.int64)),
        (Box(-1, 1, (2,)), Discrete(2, start=1)),
        (Box(-1, 1, (2, 1)), Box(-1, 1, (2,))),
        (Discrete(2), Box(-1, 1, (2,))),
    ],
)
def test_spaces_that_no_policy_serves_are_refused(observations: Space[Any], actions: Space[Any]) -> None:
    family = SimpleNamespace(observation_space=observations, action_space=actions)
    which = "actions" if observations == Box(-1, 1, (2,)) else "observations"
    for policy in (gaussian_policy(), categorical_policy(observations=2)):
        with pytest.raises(ValueError, match=f"expected {which} "):
            refuse_misfit(policy, family)  # type: ignore[arg-type]


def test_an_adaptation_can_be_that_of_training() -> None:
    plan = Plan(episodes=5, steps=2, support=Advantages(discount=0.9))
    assert Adaptation.like(plan) == Adaptation(2, 5, 20, plan.support)
    assert Adaptation.like(plan, steps=0, score_episodes=7) == Adaptation(0, 5, 7, plan.support)
