"""Meta-learned policies in Stable-Baselines3: equal distributions, equal steps, and PPO continues from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import FlattenExtractor

from envs import CartPole, Navigation
from metarl import MLP, Advantages, CategoricalPolicy, GaussianPolicy, Learner, Policy, lvc
from metarl.export import learned_rates
from metarl.losses import Dice, WeightedSum, negative_entropy
from metarl.objectives import LearnedObjective
from metarl.rules import LearnedSGD, MetaSGD, Offset
from metarl.sb3 import TaskVecEnv, adaptation_settings, from_ppo, to_ppo, with_learned_rates
from tests.helpers import randomize, seeded

SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0}


def setting(kind: str) -> tuple[Policy, TaskVecEnv]:
    policy: Policy
    if kind == "cartpole":
        family: Any = CartPole(horizon=20)
        units = torch.tensor([0.1, 0.6, 0.1, 0.9])
        policy = CategoricalPolicy(MLP(4, (8, 6), 2, activation=torch.tanh, input_scale=units, generator=seeded(0)))
    else:
        family = Navigation(horizon=10)
        policy = GaussianPolicy(MLP(2, (8, 6), 2, activation=torch.relu, generator=seeded(0)), 2, log_std=-0.5)
    randomize(policy, 1)
    return policy, TaskVecEnv(family, family.sample(2, generator=seeded(2)), episodes=2)


@pytest.mark.parametrize("kind", ["cartpole", "navigation"])
def test_actions_have_the_same_probabilities_and_the_same_mode(kind: str) -> None:
    policy, env = setting(kind)
    params = policy.initial()
    model = to_ppo(policy, params, env, **SMALL)
    x = 2.0 * torch.randn(200, *env.observation_space.shape, generator=seeded(3))
    ours = policy(params, x)
    theirs = model.policy.get_distribution(x)
    noise = policy.noise((200,), generator=seeded(4))
    for action in (ours.sample(noise), ours.mode()):
        torch.testing.assert_close(theirs.log_prob(action), ours.log_prob(action), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(theirs.entropy(), ours.entropy(), rtol=1e-6, atol=1e-6)
    greedy, _ = model.predict(x.numpy(), deterministic=True)
    expected = ours.mode() if kind == "cartpole" else ours.mode().clamp(-1.0, 1.0)
    torch.testing.assert_close(torch.from_numpy(greedy), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["cartpole", "navigation"])
def test_ppo_goes_on_with_learned_step_sizes(kind: str) -> None:
    policy, env = setting(kind)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=(0.01, 0.1), generator=seeded(1)), inner=lvc, outer=lvc)
    model = with_learned_rates(to_ppo(policy, policy.initial(), env, max_grad_norm=1e9, **SMALL), learner)
    rates = learned_rates(learner)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    steps: list[dict[str, torch.Tensor]] = []
    plain = model.policy.optimizer.step

    def watched(*args: Any) -> Any:
        steps.append({name: p.grad.clone() for name, p in model.policy.named_parameters() if p.grad is not None})
        return plain(*args)

    model.policy.optimizer.step = watched  # type: ignore[method-assign]
    model.learn(8 * env.num_envs)
    assert len(steps) == 4  # one epoch of four minibatches
    head = "action_net.weight"
    moved = before[head] - sum(rates["network.head.weight"] * step[head] for step in steps)
    torch.testing.assert_close(model.policy.get_parameter(head).detach(), moved, rtol=1e-5, atol=1e-7)
    value = "value_net.weight"
    moved = before[value] - sum(1e-3 * step[value] for step in steps)
    torch.testing.assert_close(model.policy.get_parameter(value).detach(), moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["cartpole", "navigation"])
def test_a_saved_model_goes_on_with_its_learned_step_sizes(kind: str, tmp_path: Path) -> None:
    policy, env = setting(kind)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=(0.01, 0.1), generator=seeded(1)), inner=lvc, outer=lvc)
    settings = SMALL | adaptation_settings(Advantages(), env, n_steps=40)
    settings |= {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}}  # of Adam, which is replaced
    model = with_learned_rates(to_ppo(policy, policy.initial(), env, **settings), learner)
    model.learn(settings["batch_size"])
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=env, device="cpu")
    for one in (model, again):
        for number, leaf in enumerate(one.policy.parameters()):
            leaf.grad = torch.full_like(leaf, 0.1 * (number + 1))
        one.policy.optimizer.step()
    for name, leaf in model.policy.named_parameters():
        assert torch.equal(again.policy.get_parameter(name), leaf), name
    before = from_ppo(policy, again)
    again.learn(settings["batch_size"])
    assert again.policy.optimizer.param_groups[0]["lr"] == 1.0
    assert not any(torch.equal(leaf, before[name]) for name, leaf in from_ppo(policy, again).items())


FROZEN = [
    (kind, name)
    for kind in ("cartpole", "navigation")
    for name in ("network.hidden.0.weight", "network.hidden.1.bias", "network.head.weight", "log_std")
    if name != "log_std" or kind == "navigation"
]


@pytest.mark.parametrize(("kind", "name"), FROZEN)
def test_what_is_frozen_acts_in_ppo_comes_back_and_has_a_step_size_of_zero(kind: str, name: str) -> None:
    policy, env = setting(kind)
    policy.get_parameter(name).requires_grad_(False)
    params = {key: p.detach() + 0.1 for key, p in policy.initial().items()}
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.1), inner=lvc, outer=lvc)
    model = with_learned_rates(to_ppo(policy, params, env, **SMALL), learner)
    x = torch.randn(50, *env.observation_space.shape, generator=seeded(3))
    noise = policy.noise((50,), generator=seeded(4))

    def assert_alike(given: dict[str, torch.Tensor]) -> None:
        ours, theirs = policy(given, x), model.policy.get_distribution(x)
        for action in (ours.sample(noise), ours.mode()):
            torch.testing.assert_close(theirs.log_prob(action), ours.log_prob(action), rtol=1e-5, atol=1e-5)

    assert_alike(params)
    assert set(from_ppo(policy, model)) == {key for key, _ in policy.named_parameters()}
    model.learn(8 * env.num_envs)
    trained = from_ppo(policy, model)
    assert_alike(trained)
    for key, leaf in trained.items():
        if key == name:
            torch.testing.assert_close(leaf, policy.get_parameter(name).detach(), rtol=1e-6, atol=1e-7)
        else:
            assert float((leaf - params[key]).abs().max()) > 1e-5, key


def test_refusals_are_in_words() -> None:
    policy, env = setting("navigation")
    with pytest.raises(ValueError, match="leave them out of policy_kwargs"):
        to_ppo(policy, policy.initial(), env, policy_kwargs={"net_arch": [3]}, **SMALL)
    with pytest.raises(ValueError, match="the policy determines features_extractor_class: leave them out"):
        to_ppo(policy, policy.initial(), env, policy_kwargs={"features_extractor_class": FlattenExtractor}, **SMALL)
    with pytest.raises(ValueError, match="which use_sde would make depend on the state"):
        to_ppo(policy, policy.initial(), env, use_sde=True, **SMALL)
    other, _ = setting("cartpole")
    with pytest.raises(ValueError, match="use an environment with its spaces"):
        to_ppo(other, other.initial(), env, **SMALL)
    learner = Learner(policy, Offset(LearnedSGD(0.1), policy.initial()), inner=lvc, outer=lvc)
    randomize(learner.rule, 1)
    for inner in (
        Dice(),
        WeightedSum(((1.0, lvc), (0.01, negative_entropy))),
        LearnedObjective(lvc, Advantages(decay=0.9)),
    ):
        odd = Learner(policy, LearnedSGD(0.1), inner=inner, outer=lvc)
        with pytest.raises(ValueError, match=f"gradients of {type(inner).__name__}, which PPO's loss does not have"):
            with_learned_rates(to_ppo(policy, policy.initial(), env, **SMALL), odd)
    with pytest.raises(ValueError, match="not one step size per parameter"):
        with_learned_rates(to_ppo(policy, policy.initial(), env, **SMALL), learner)
