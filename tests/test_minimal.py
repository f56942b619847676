"""The one-file example does the same as the library: equal adaptation, equal meta-gradient, and it learns."""

from __future__ import annotations

import torch

from envs import Navigation
from examples import metasgd_minimal as small
from metarl import (
    MLP,
    Advantages,
    Clipped,
    GaussianPolicy,
    Learner,
    Plan,
    ZeroBaseline,
    explore,
    lvc,
)
from metarl.optimizers.base import meta_gradient, trainable
from metarl.rules import MetaSGD
from tests.helpers import randomize, seeded

NAMES = {"w0": "hidden.0.weight", "b0": "hidden.0.bias", "w1": "hidden.1.weight", "b1": "hidden.1.bias",
         "w2": "head.weight", "b2": "head.bias"}  # fmt: skip


def test_it_adapts_and_differentiates_as_the_library_does() -> None:
    policy = GaussianPolicy(MLP(2, (8, 8), 2, activation=torch.relu, generator=seeded(0)), 2)
    randomize(policy, 1, 0.1)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.3), inner=lvc, outer=Clipped(0.2)).double()
    randomize(learner.rule, 2, 0.05)
    family = Navigation(horizon=6)
    plan = Plan(tasks=3, episodes=4, query_episodes=4, support=Advantages(baseline=ZeroBaseline()))
    task = {name: value.double() for name, value in family.sample(3, generator=seeded(3)).items()}
    trace = explore(learner, family, task, plan, generator=seeded(4))
    loss, gradient = meta_gradient(learner, trace)

    ours = {key: policy.initial()[f"network.{name}"] for key, name in NAMES.items()} | {"log_std": policy.log_std}
    rates = learner.rule.rates()  # type: ignore[union-attr,operator]
    theta = {key: p.detach().clone().requires_grad_() for key, p in ours.items()}
    full = {key: f"network.{NAMES[key]}" if key in NAMES else key for key in theta}
    alpha = {key: rates[full[key]].detach().clone().requires_grad_() for key in theta}
    support, query = trace.support[0], trace.query
    constant = torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))  # two action dimensions, half each
    found = torch.vmap(lambda s, q: small.meta_loss(theta, alpha, s, q))(
        (support.observation, support.action, support.advantage),
        (query.observation, query.action, query.advantage, query.log_prob + constant),
    ).mean()
    torch.testing.assert_close(found.detach(), loss, rtol=1e-10, atol=1e-12)
    slopes = torch.autograd.grad(found, [*theta.values(), *alpha.values()])
    by_id = {id(p): g for p, g in zip(trainable(learner), gradient, strict=True)}
    expected = [by_id[id(p)] for p in ours.values()]
    raw = learner.rule.rates.state_dict(keep_vars=True)  # type: ignore[union-attr]
    expected += [by_id[id(raw[full[key].replace(".", "/")])] for key in theta]
    for slope, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-9, atol=1e-12)


def test_its_world_is_fixed_start_navigation() -> None:
    family, generator = Navigation(horizon=5), seeded(0)
    task = family.sample(3, generator=generator)
    goal = torch.stack([task["goal_x"], task["goal_y"]], -1)
    theta = {name: p.expand(3, *p.shape) for name, p in small.initial_policy(generator).items()}
    noise = torch.randn(5, 3, 4, 2, generator=generator)
    observation, action, reward = small.walk(theta, goal, noise)
    columns = {name: value.unsqueeze(-1) for name, value in task.items()}
    state = family.reset(columns, (3, 4), generator=generator)
    for t in range(5):
        torch.testing.assert_close(family.observe(columns, state), observation[:, t])
        state, paid, _ = family.step(columns, state, action[:, t])
        torch.testing.assert_close(paid, reward[:, t])


def test_it_learns_to_adapt_in_a_few_iterations() -> None:
    returns = list(small.train(6))
    assert returns[:1] == list(small.train(1))
    before, after = (sum(column) / 3 for column in zip(*returns[-3:], strict=True))
    assert after > before + 3.0
