"""RL^2: its GRU against torch's; rollouts, advantages and losses against plain loops; learning; the contender."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiBinary
from helpers import Stub, randomize, seeded
from torch import Tensor, nn

from envs import BernoulliBandit, CartPole, Choice, LogRange, Navigation
from envs.gittins import bayes_value
from envs.wrappers import Trials
from experiments.build import build
from experiments.config import Config
from experiments.contenders import memory as contender
from experiments.contenders.budget import refuse_unequal
from experiments.contenders.memory import rl2, trial_episodes
from experiments.errors import InputError
from experiments.evaluate import Protocol, measure
from metarl.errors import DivergedError, NonFiniteError
from metarl.memory import (
    MemoryPlan,
    MemoryPolicy,
    MemoryTrainer,
    Segments,
    TrialBatch,
    collect_trials,
    memory_policy,
    score_trials,
    segments,
    train_memory,
    trial_advantages,
)

TASKS, TRIALS = 3, 4
POLE: Any = Trials(CartPole(12, polarity=Choice((-1.0, 1.0)), force_magnitude=LogRange(10, 60)), 3)
WALK: Any = Trials(Navigation(6, box=0.2), 2)
FAMILIES = {"pole": POLE, "walk": WALK}


def agent_for(family: Any, units: int = 5, seed: int = 0) -> MemoryPolicy:
    """An agent in float64 off its symmetric start, with scales that are not 0 and 1."""
    agent = memory_policy(family, units=units, hidden=(4,), generator=seeded(seed)).double()
    randomize(agent, seed + 1)
    with torch.no_grad():
        agent.input_mean.normal_(generator=seeded(seed + 2))
        agent.input_std.copy_(0.5 + torch.rand(agent.inputs, generator=seeded(seed + 3)))
        agent.value_mean.fill_(3.0)
        agent.value_std.fill_(2.0)
    return agent


def tasks_of(family: Any, count: int = TASKS, seed: int = 4) -> dict[str, Tensor]:
    return {name: values.double() for name, values in family.sample(count, generator=seeded(seed)).items()}


def played(family: Any, agent: MemoryPolicy | None = None, seed: int = 5) -> tuple[MemoryPolicy, TrialBatch]:
    agent = agent or agent_for(family)
    return agent, collect_trials(agent, family, tasks_of(family), TRIALS, generator=seeded(seed))


# --- the recurrent unit


def test_the_unit_is_torchs_gru() -> None:
    agent = memory_policy(POLE, units=7, generator=seeded(0))
    randomize(agent, 1)
    reference = nn.GRU(agent.inputs, 7)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(agent.look.weight)
        reference.weight_hh_l0.copy_(agent.recall.weight)
        reference.bias_ih_l0.copy_(agent.look.bias)
        reference.bias_hh_l0.copy_(agent.recall.bias)
    x, h = torch.randn(20, 6, agent.inputs, generator=seeded(2)), torch.randn(6, 7, generator=seeded(3))
    ours, theirs = agent.unroll(x, h), reference(x, h[None])[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(agent.remember(x[0], h), theirs[0], rtol=0, atol=1e-6)
    weight = torch.randn(ours.shape, generator=seeded(4))
    for result in (ours, theirs):
        (result * weight).sum().backward()
    pairs = (
        (agent.look.weight, reference.weight_ih_l0),
        (agent.recall.weight, reference.weight_hh_l0),
        (agent.look.bias, reference.bias_ih_l0),
        (agent.recall.bias, reference.bias_hh_l0),
    )
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_gates_start_orthogonal_and_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    agent, again, other = (memory_policy(WALK, units=8, generator=seeded(seed)) for seed in (0, 0, 1))
    for gate in agent.recall.weight.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), rtol=0, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), again.parameters(), strict=True))
    assert not torch.equal(agent.look.weight, other.look.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_inputs_are_scaled_and_clipped() -> None:
    agent = agent_for(WALK)
    seen = 30.0 * torch.randn(50, agent.inputs, generator=seeded(0), dtype=torch.float64)
    scaled = [
        [min(max((float(x) - float(m)) / float(s), -10.0), 10.0) for x, m, s in zip(row, *scale, strict=True)]
        for row, scale in ((row, (agent.input_mean, agent.input_std)) for row in seen)
    ]
    assert max(itertools.chain(*scaled)) == 10.0
    given = agent.remember(seen, agent.blank((50,)))
    agent.input_mean.zero_()
    agent.input_std.fill_(1.0)
    torch.testing.assert_close(agent.remember(torch.tensor(scaled, dtype=torch.float64), agent.blank((50,))), given)


# --- rollouts


@pytest.mark.parametrize("name", FAMILIES)
def test_trials_are_what_a_loop_plays(name: str) -> None:
    """Act by hand: the memory in a variable, the noise drawn beforehand, the trial ended by its last episode."""
    family = FAMILIES[name]
    agent, trials = played(family)
    task = {constant: values[:, None] for constant, values in tasks_of(family).items()}
    generator, rows = seeded(5), (TASKS, TRIALS)
    state = family.reset(task, rows, generator=generator)
    noise = agent.head.noise((family.horizon, *rows), generator=generator)
    memory, over = torch.zeros(*rows, agent.units, dtype=torch.float64), torch.zeros(rows, dtype=torch.bool)
    returns = torch.zeros(*rows, family.episodes, dtype=torch.float64)
    with torch.no_grad():
        for step, draw in enumerate(noise[: trials.batch.mask.shape[1]]):
            seen, number = family.observe(task, state), family.episode(state)
            memory = agent.remember(seen, memory)
            action = agent.head(agent.head.initial(), memory).sample(draw)
            state, reward, ended = family.step(task, state, action)
            live = ~over
            assert torch.equal(trials.batch.mask[:, step], live.double())
            for recorded, expected in (
                (trials.batch.observation, seen),
                (trials.memory, memory),
                (trials.batch.action, action),
                (trials.batch.reward, reward),
                (trials.episode, number),
                (trials.batch.value, agent.value(memory)),
            ):
                torch.testing.assert_close(recorded[:, step][live], expected[live])
            for t, n in live.nonzero().tolist():
                returns[t, n, int(number[t, n])] += reward[t, n]
            over = over | ended
    assert bool(over.all())
    torch.testing.assert_close(trials.by_episode(trials.batch.reward, family.episodes), returns)


@pytest.mark.parametrize("segment", [1, 4, 7, None])
@pytest.mark.parametrize("name", FAMILIES)
def test_replay_gives_the_probabilities_and_values_of_acting(name: str, segment: int | None) -> None:
    agent, trials = played(FAMILIES[name])
    parts = segments(trials, MemoryPlan(segment=segment))
    distribution, value = agent(parts.batch.observation, parts.start)
    real = parts.batch.mask > 0
    torch.testing.assert_close(distribution.log_prob(parts.batch.action)[real], parts.batch.log_prob[real])
    torch.testing.assert_close((value * agent.value_std + agent.value_mean)[real], parts.batch.value[real])
    assert real.sum() == trials.batch.mask.sum()


def test_memory_lasts_beyond_the_end_of_an_episode() -> None:
    agent, trials = played(POLE)
    first = (trials.episode == 1) & (trials.episode.roll(1, 1) == 0) & (trials.batch.mask > 0)
    assert first.sum() == TASKS * TRIALS  # each trial's second episode
    before = trials.memory.roll(1, 1)[first]
    torch.testing.assert_close(agent.remember(trials.batch.observation[first], before), trials.memory[first])
    blank = agent.remember(trials.batch.observation[first], torch.zeros_like(before))
    assert bool(((blank - trials.memory[first]).abs().amax(-1) > 1e-3).all())


# --- advantages, segments and losses


def test_advantages_run_on_across_episodes() -> None:
    agent, trials = played(POLE)
    plan = MemoryPlan(discount=0.9, decay=0.8)
    batch, found = trials.batch, trial_advantages(trials, plan)
    for t, n in itertools.product(range(TASKS), range(TRIALS)):
        length = int(batch.mask[t, :, n].sum())
        reward, value = batch.reward[t, :length, n].tolist(), batch.value[t, :length, n].tolist()
        later = 0.0
        for step in reversed(range(length)):
            following = value[step + 1] if step + 1 < length else 0.0
            later = reward[step] + 0.9 * following - value[step] + 0.9 * 0.8 * later
            assert found[t, step, n].item() == pytest.approx(later, rel=1e-9)
    assert torch.equal(found * (1 - batch.mask), torch.zeros_like(found))
    # A reward of the second episode is credited to the first.
    paid = batch.reward + 100.0 * (trials.episode == 1) * batch.mask
    changed = trial_advantages(trials._replace(batch=batch._replace(reward=paid)), plan)
    earlier = (trials.episode == 0) & (batch.mask > 0)
    assert bool((changed > found)[earlier].all())
    assert torch.equal(changed[trials.episode == 2], found[trials.episode == 2])


@pytest.mark.parametrize("segment", [1, 5, 8, 1000, None])
def test_segments_hold_every_step_once_and_weigh_tasks_alike(segment: int | None) -> None:
    agent, trials = played(POLE)
    batch, plan = trials.batch, MemoryPlan(segment=segment)
    named = batch._replace(reward=torch.arange(float(batch.mask.numel())).reshape(batch.mask.shape).double() + 1)
    parts = segments(trials._replace(batch=named), plan)
    real = parts.batch.mask > 0
    found = parts.batch.reward[real].long() - 1
    assert sorted(found.tolist()) == batch.mask.flatten().nonzero().flatten().tolist()
    assert bool(real.any(0).all()) and len(real) == min(segment or 10**9, batch.mask.shape[1])
    task, step, trial = np.unravel_index(found.numpy(), tuple(batch.mask.shape))
    weight = torch.zeros(TASKS, dtype=torch.float64).index_add(0, torch.tensor(task), parts.batch.mask[real])
    torch.testing.assert_close(weight, batch.mask.sum() / TASKS * torch.ones(TASKS, dtype=torch.float64))
    for s in range(len(parts.start)):
        first = int(parts.batch.reward[0, s]) - 1
        t, h, n = np.unravel_index(first, tuple(batch.mask.shape))
        before = trials.memory[t, h - 1, n] if h else torch.zeros(agent.units, dtype=torch.float64)
        assert torch.equal(parts.start[s], before)


def looped_loss(agent: MemoryPolicy, trials: TrialBatch, plan: MemoryPlan) -> Tensor:
    """PPO's loss of whole trials, step by step in plain Python: a mean over tasks of means over steps."""
    total: Any = 0.0
    advantage = trial_advantages(trials, plan)
    for t in range(TASKS):
        real = trials.batch.mask[t] > 0
        mean, std = advantage[t][real].mean(), advantage[t][real].std(correction=0)
        terms = []
        for n in range(TRIALS):
            memory = torch.zeros(agent.units, dtype=torch.float64)
            for h in range(int(real[:, n].sum())):
                memory = agent.remember(trials.batch.observation[t, h, n], memory)
                distribution = agent.head(agent.head.initial(), memory)
                ratio = (distribution.log_prob(trials.batch.action[t, h, n]) - trials.batch.log_prob[t, h, n]).exp()
                gain = (advantage[t, h, n] - mean) / std
                bounded = min(max(ratio.item(), 1 - plan.clip), 1 + plan.clip)
                objective = ratio * gain if (ratio * gain).item() <= bounded * gain.item() else bounded * gain
                target = advantage[t, h, n] + trials.batch.value[t, h, n]
                error = ((agent.value(memory) - target) / agent.value_std).square()
                terms.append(-objective + plan.value_weight * error - plan.entropy_weight * distribution.entropy())
        total = total + torch.stack(terms).mean() / TASKS
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_and_its_gradient_are_those_of_a_loop(name: str) -> None:
    agent, trials = played(FAMILIES[name])
    plan = MemoryPlan(segment=None, discount=0.95, entropy_weight=0.1, clip=0.1)
    randomize(agent, 8, 0.1)  # ratios are no longer 1, and some are clipped
    trainer = MemoryTrainer(agent, plan, lr=1e-3)
    loss, told = trainer.loss(segments(trials, plan))
    expected = looped_loss(agent, trials, plan)
    torch.testing.assert_close(loss, expected)
    params = list(agent.parameters())
    gradients = (torch.autograd.grad(x, params) for x in (loss, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert set(told) == {"policy_loss", "value_loss", "entropy", "kl"} and told["kl"] > 0


def test_rescaled_values_stay_what_they_are() -> None:
    agent, trials = played(POLE)
    before = agent.value(trials.memory)
    target, weight = 50 + 7 * torch.randn(6, 9, generator=seeded(0)).double(), torch.rand(6, 9, generator=seeded(1))
    weight = weight.double() * (torch.rand(6, 9, generator=seeded(2)) < 0.7)
    agent.rescale_values(target, weight)
    torch.testing.assert_close(agent.value(trials.memory), before)
    mean = np.average(target.numpy(), weights=weight.numpy())
    std = math.sqrt(np.average((target.numpy() - mean) ** 2, weights=weight.numpy()))
    assert (float(agent.value_mean), float(agent.value_std)) == pytest.approx((mean, std))  # the first counts alone
    agent.trained.fill_(50.0)
    agent.rescale_values(target + 10, weight)
    assert float(agent.value_mean) == pytest.approx(mean + 1.0)


def test_the_scale_of_values_is_the_mean_over_the_first_iterations() -> None:
    agent = agent_for(POLE)
    weight, moments = torch.ones(6, 9, dtype=torch.float64), []
    for number in range(4):
        target = number + (1 + number) * torch.randn(6, 9, generator=seeded(number)).double()
        agent.rescale_values(target, weight)
        agent.rescale_inputs(torch.randn(6, 9, agent.inputs, generator=seeded(9)).double(), weight)
        moments.append((target.numpy().mean(), target.numpy().std()))
        assert (float(agent.value_mean), float(agent.value_std)) == pytest.approx(tuple(np.mean(moments, 0)))


def test_the_scale_of_inputs_is_the_mean_over_iterations() -> None:
    agent = agent_for(WALK)
    means = []
    for seed in range(3):
        seen = torch.randn(5, 7, agent.inputs, generator=seeded(seed)).double()
        seen[..., 1] = 4.0  # never varies: its size is left alone
        weight = torch.rand(5, 7, generator=seeded(seed + 9)).double()
        agent.rescale_inputs(seen, weight)
        means.append(np.average(seen.numpy(), axis=(0, 1), weights=weight.numpy()))
    np.testing.assert_allclose(agent.input_mean.numpy(), np.mean(means, 0), rtol=1e-9)
    assert float(agent.input_std[1]) == 1.0 and 0.5 < float(agent.input_std[0]) < 1.5


# --- training


def trained(seed: int, iterations: int = 3) -> tuple[MemoryPolicy, list[dict[str, float]]]:
    agent = memory_policy(POLE, units=6, generator=seeded(seed))
    trainer = MemoryTrainer(agent, MemoryPlan(tasks=4, trials=2, segment=8, minibatch=5), lr=1e-2)
    stream = train_memory(
        trainer, POLE, Stub(POLE, "force_magnitude", 40.0), generator=seeded(seed + 1), task_generator=seeded(seed + 2)
    )
    return agent, [metrics for _, metrics in itertools.islice(stream, iterations)]


def test_training_is_the_same_to_the_bit_from_equal_generators() -> None:
    before = torch.get_rng_state()
    (one, told), (two, again), (other, _) = trained(0), trained(0), trained(5)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert not torch.equal(one.look.weight, other.look.weight)
    for a, b in zip(told, again, strict=True):
        assert {k: v for k, v in a.items() if "time" not in k} == {k: v for k, v in b.items() if "time" not in k}
    assert torch.equal(torch.get_rng_state(), before)


def test_training_tells_what_it_did_and_plays_training_tasks_only() -> None:
    met: list[dict[str, Tensor]] = []

    class Watched(Trials):  # type: ignore[misc]
        def reset(self, task: Any, rows: Any, *, generator: torch.Generator) -> Any:
            met.append(dict(task))
            return super().reset(task, rows, generator=generator)

    family: Any = Watched(CartPole(12, force_magnitude=LogRange(10, 60)), 2)
    agent = memory_policy(family, units=4, generator=seeded(0))
    trainer = MemoryTrainer(agent, MemoryPlan(tasks=3, trials=2), lr=1e-3)
    stream = train_memory(
        trainer, family, Stub(family, "force_magnitude", 40.0), generator=seeded(1), task_generator=seeded(2), start=7
    )
    for number, (iteration, metrics) in enumerate(itertools.islice(stream, 3)):
        assert iteration == 8 + number
        returns = [metrics[f"return/episode_{k}"] for k in range(2)]
        assert metrics["env_steps"] == pytest.approx(6 * sum(returns))  # a step of CartPole pays 1
        assert f"return/episode_{2}" not in metrics and metrics["ppo/grad_norm"] > 0
    assert len(met) == 3 and all(bool((task["force_magnitude"] < 40.0).all()) for task in met)


def test_a_lower_share_takes_smaller_steps() -> None:
    moved = []
    for share in (1.0, 0.1):
        agent, trials = played(POLE)
        trainer = MemoryTrainer(agent, MemoryPlan(epochs=1, minibatch=1000), lr=1e-4)
        trainer.share = share
        before = agent.look.weight.detach().clone()
        trainer.step(trials, generator=seeded(0))
        moved.append((agent.look.weight - before).abs().max().item())
    assert moved[1] == pytest.approx(0.1 * moved[0], rel=1e-3)


def test_inputs_are_rescaled_only_once_all_is_trained_on() -> None:
    agent, trials = played(POLE)
    told = MemoryTrainer(agent, MemoryPlan(epochs=1, minibatch=1000), lr=1e-3).step(trials, generator=seeded(0))
    assert abs(told["ppo/kl"]) < 1e-12  # the agent is still the one that played
    observation, real = trials.batch.observation.numpy(), trials.batch.mask.numpy() > 0
    means = [observation[t][real[t]].mean(0) for t in range(TASKS)]
    np.testing.assert_allclose(agent.input_mean.numpy(), np.mean(means, 0), rtol=1e-9)  # tasks weigh alike


def test_every_epoch_uses_all_segments_in_an_order_of_its_own() -> None:
    agent, trials = played(POLE)
    plan = MemoryPlan(segment=12, minibatch=10, epochs=3)
    reward = torch.arange(float(trials.batch.mask.numel())).reshape(trials.batch.mask.shape).double()
    trials = trials._replace(batch=trials.batch._replace(reward=reward))  # names every step
    given = segments(trials, plan).batch.reward[0].tolist()

    class Watched(MemoryTrainer):
        def loss(self, parts: Segments) -> tuple[Tensor, dict[str, float]]:
            orders[-1].append(parts.batch.reward[0].tolist())
            return super().loss(parts)

    orders: list[list[list[float]]] = []
    for seed in (0, 0, 1):
        orders.append([])
        Watched(copy.deepcopy(agent), plan, lr=1e-3).step(trials, generator=seeded(seed))
    one, again, other = orders
    assert one == again and one != other
    sizes = [min(10, len(given) - start) for start in range(0, len(given), 10)]
    assert [len(names) for names in one] == sizes * 3 and len(sizes) > 1
    epochs = [list(itertools.chain(*one[k * len(sizes) : (k + 1) * len(sizes)])) for k in range(3)]
    assert all(sorted(names) == sorted(given) and names != given for names in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_it_learns_a_bandit_from_its_own_pulls() -> None:
    pulls = 20
    family: Any = Trials(BernoulliBandit(2, horizon=1), pulls)
    agent = memory_policy(family, units=24, generator=seeded(0))
    trainer = MemoryTrainer(agent, MemoryPlan(tasks=40, trials=5, minibatch=50), lr=1e-2)
    benchmark = Stub(BernoulliBandit(2, horizon=1), "arm_0", 2.0)  # every task is a training task
    for iteration, _ in train_memory(trainer, family, benchmark, generator=seeded(1), task_generator=seeded(2)):
        if iteration == 30:
            break
    task = family.sample(500, generator=seeded(3))
    scores = score_trials(agent, family, task, 4, generator=seeded(4), chunk=500)
    best, blind = bayes_value(2, pulls), pulls / 2
    total = float(scores.sampled.sum(1).mean())
    assert blind + 0.6 * (best - blind) < total < best + 0.3  # nobody beats the optimum but by luck
    by_pull = scores.sampled.mean(0)
    assert abs(float(by_pull[0]) - 0.5) < 0.05 and float(by_pull[-5:].mean()) > 0.58
    assert torch.equal(scores.steps, torch.arange(float(pulls)).expand(500, -1))


def test_scoring_leaves_the_agent_and_its_scales_alone() -> None:
    agent, _ = trained(0, iterations=1)
    before = copy.deepcopy(agent.state_dict())
    assert {"input_mean", "input_std", "value_mean", "value_std", "trained"} <= before.keys() and before["trained"] == 1
    score_trials(agent, POLE, POLE.sample(3, generator=seeded(0)), TRIALS, generator=seeded(1))
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())


def test_scores_are_means_by_episode() -> None:
    agent = agent_for(POLE).float()
    task = {name: values.float() for name, values in tasks_of(POLE, 5).items()}
    scores = score_trials(agent, POLE, task, TRIALS, generator=seeded(6), chunk=2)
    generator, sampled, mode, steps = seeded(6), [], [], []
    for low in (0, 2, 4):
        part = {name: values[low : low + 2] for name, values in task.items()}
        one = collect_trials(agent, POLE, part, TRIALS, generator=generator)
        two = collect_trials(agent, POLE, part, TRIALS, generator=generator, act="mode")
        for t in range(len(one.batch.mask)):
            each = [[(one.episode[t] == k) & (one.batch.mask[t] > 0) for k in range(3)]]
            sampled.append([float(one.batch.reward[t][where].sum()) / TRIALS for where in each[0]])
            lengths = [int(where.sum()) / TRIALS for where in each[0]]
            steps.append([0.0, lengths[0], lengths[0] + lengths[1]])
            live = two.batch.mask[t] > 0
            mode.append([float(two.batch.reward[t][live & (two.episode[t] == k)].sum()) / TRIALS for k in range(3)])
    torch.testing.assert_close(scores.sampled, torch.tensor(sampled))
    torch.testing.assert_close(scores.mode, torch.tensor(mode))
    torch.testing.assert_close(scores.steps, torch.tensor(steps))


# --- what is refused


class Pictures:
    observation_space = Box(0.0, 1.0, (2, 2), dtype=np.float32)
    action_space = POLE.action_space


class Switches:
    observation_space = POLE.observation_space
    action_space = MultiBinary(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: memory_policy(Pictures(), generator=seeded(0)), "flat Box"),  # type: ignore[arg-type]
        (lambda: memory_policy(Switches(), generator=seeded(0)), "Discrete or a flat Box"),  # type: ignore[arg-type]
        (lambda: memory_policy(POLE, units=0, generator=seeded(0)), "at least one"),
        (lambda: MemoryPolicy(0, 3, agent_for(POLE).head, generator=seeded(0)), "at least one input"),
        (lambda: MemoryPlan(tasks=0), "tasks must be at least 1, got 0"),
        (lambda: MemoryPlan(segment=0), "segment must be at least 1"),
        (lambda: MemoryPlan(segment=2.5), "segment must be a whole number, got 2.5"),  # type: ignore[arg-type]
        (lambda: MemoryPlan(minibatch=4.0), "minibatch must be a whole number, got 4.0"),  # type: ignore[arg-type]
        (lambda: MemoryPlan(discount=1.1), r"discount must lie in \[0, 1\]"),
        (lambda: MemoryPlan(decay=float("nan")), r"decay must lie in \[0, 1\]"),
        (lambda: MemoryPlan(clip=0.0), "clip must be positive"),
        (lambda: MemoryPlan(max_norm=float("inf")), "max_norm must be positive and finite"),
        (lambda: MemoryPlan(entropy_weight=-1.0), "entropy_weight must be finite and not negative"),
        (lambda: MemoryTrainer(agent_for(POLE), MemoryPlan(), lr=0.0), "lr must be positive"),
        (lambda: collect_trials(agent_for(POLE), POLE, tasks_of(POLE), 0, generator=seeded(0)), "at least one trial"),
        (lambda: collect_trials(agent_for(WALK), POLE, tasks_of(POLE), 1, generator=seeded(0)), r"got one for \(6,\)"),
        (lambda: collect_trials(agent_for(POLE), POLE, tasks_of(WALK), 1, generator=seeded(0)), "a task of the family"),
        (lambda: score_trials(agent_for(POLE), POLE, tasks_of(POLE), 1, generator=seeded(0), chunk=0), "chunk"),
    ],
)
def test_wrong_input_is_refused_in_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_family_of_single_episodes_is_not_taken_for_one_of_trials() -> None:
    family: Any = CartPole(horizon=4)
    agent = memory_policy(family, units=3, generator=seeded(0))
    with pytest.raises(TypeError, match=r"expected a family of trials, such as Trials\(family, 3\), got a CartPole"):
        collect_trials(agent, family, family.sample(2, generator=seeded(0)), 1, generator=seeded(0))


def test_what_is_not_finite_is_refused() -> None:
    agent, trials = played(POLE)
    broken = trials._replace(batch=trials.batch._replace(reward=trials.batch.reward * float("inf")))
    with pytest.raises(DivergedError, match="lower the step size 0.01"):
        MemoryTrainer(agent, MemoryPlan(), lr=0.01).step(broken, generator=seeded(0))
    with torch.no_grad():
        agent.look.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="non-finite"):
        played(POLE, agent)


# --- the contender


SMALL = Config(benchmark="navigation-fixed", horizon=5, env_steps=900, tasks=4, episodes=2, steps=2, rate=3e-3, seed=3)
HELD_OUT = Protocol(tasks=6, steps=2, episodes=2, score_episodes=3)


def test_the_contender_is_measured_like_the_others() -> None:
    result = rl2(SMALL)(HELD_OUT)
    cpu = torch.device("cpu")
    ours = measure(build(SMALL.model_copy(update={"rate": 0.1}), cpu), HELD_OUT)
    assert set(ours) | {"reported", "seconds", "iterations", "training_env_steps"} <= set(result)
    for same in ("benchmark", "fingerprint", "split", "protocol", "task", "references", "seed"):
        assert result[same] == ours[same]
    assert result["rule"] == "rl2" and result["learned"] == {} and result["reported"] == 4
    for field in ("sampled", "mode", "adaptation_steps", "adaptation_episodes"):
        assert np.isfinite(result[field]).all() and np.shape(result[field]) == (6, 5)
    assert result["adaptation_episodes"][0] == [0, 1, 2, 3, 4]
    assert result["training_env_steps"] >= 900 > result["training_env_steps"] - result["last_iteration_env_steps"]
    refuse_unequal({"rl2": [result]}, budget=900, episodes=4)
    assert rl2(SMALL)(HELD_OUT) | {"seconds": 0} == result | {"seconds": 0}
    ceiling = np.asarray(result["references"]["ceiling"])[:, None]
    assert (np.asarray(result["sampled"]) <= ceiling + 1e-3).all()


def test_the_contender_trains_as_its_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[dict[str, Any]] = []

    class Watched(MemoryTrainer):
        def step(self, trials: TrialBatch, *, generator: torch.Generator) -> dict[str, float]:
            rows, spread = trials.batch.mask.shape, self.agent.head.log_std
            met.append({"share": self.share, "steps": float(trials.batch.mask.sum()), "tasks": rows[0], "lr": self.lr})
            assert len(met) > 1 or spread.tolist() == [pytest.approx(-0.7)] * 2
            return super().step(trials, generator=generator)

    monkeypatch.setattr(contender, "MemoryTrainer", Watched)
    result = rl2(SMALL.model_copy(update={"env_steps": 1100, "final_share": 0.2, "log_std": -0.7}))(
        Protocol(tasks=2, steps=0, score_episodes=1)
    )
    spent = np.cumsum([one["steps"] for one in met])
    expected = [1.0, *(1.0 - 0.8 * spent[:-1] / 1100)]
    assert [one["share"] for one in met] == pytest.approx(expected) and len(met) > 2
    assert {(one["tasks"], one["lr"]) for one in met} == {(4, 3e-3)}
    assert result["training_env_steps"] == spent[-1] >= 1100


def test_a_protocol_bounds_the_trial() -> None:
    under = rl2(SMALL)
    short = under(Protocol(tasks=2, steps=1, episodes=2, score_episodes=2))
    assert np.shape(short["sampled"]) == (2, 3) and short["reported"] == 2
    none = under(Protocol(tasks=2, steps=0, score_episodes=2))
    assert np.shape(none["sampled"]) == (2, 1) and none["adaptation_steps"] == [[0.0], [0.0]]
    assert np.shape(under(Protocol(tasks=2, score_episodes=2))["sampled"]) == (2, 5)  # never more than in training
    assert [trial_episodes(*pair) for pair in ((500, 61), (100, 61), (10, 61), (1, 21), (500, 1))] == [3, 3, 30, 21, 1]


@pytest.mark.parametrize(
    ("config", "protocol", "message"),
    [
        (SMALL, Protocol("train"), "cannot be evaluated on"),
        (SMALL, Protocol("nowhere"), "no split 'nowhere'"),
        (SMALL, Protocol(tasks=0), "tasks >= 1"),
        (SMALL.model_copy(update={"rate": 0.0}), HELD_OUT, "rl2: lr must be positive"),
    ],
)
def test_the_contender_refuses(config: Config, protocol: Protocol, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rl2(config.model_copy(update={"env_steps": 1}))(protocol)
