"""Meta-SGD for reinforcement learning in one file that needs only torch (Li et al. 2017, arXiv:1707.09835).

    python examples/metasgd_minimal.py

A point in the plane must find a goal it cannot see. It plays 20 episodes, takes ONE policy-gradient step
θ' = θ - α ∘ ∇L(θ), and plays again. The starting point of the step (θ) and a step size for every single parameter (α)
are meta-learned by differentiating through the step. The library does the same, faster and for many other settings; a
test checks that both give the same results up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import grad, vmap

TASKS, EPISODES, HORIZON, HIDDEN = 20, 20, 100, 100
Params = dict[str, Tensor]


def initial_policy(generator: torch.Generator) -> Params:
    """Draw θ: a network with two hidden ReLU layers, and the logarithm of the action noise."""
    sizes = (2, HIDDEN, HIDDEN, 2)
    theta: Params = {"log_std": torch.zeros(2)}
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        scale = 0.01 if i == 2 else 2.0**0.5
        theta[f"w{i}"] = scale * torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        theta[f"b{i}"] = torch.zeros(outputs)
    return theta


def act(p: Params, x: Tensor) -> Tensor:
    """Return the mean actions ``[H, N, 2]`` of one task."""
    for i in range(2):
        x = torch.relu(x @ p[f"w{i}"].mT + p[f"b{i}"])
    return x @ p["w2"].mT + p["b2"]


def log_prob(p: Params, x: Tensor, action: Tensor) -> Tensor:
    """Return the log-probability under the Gaussian policy, ``[H, N]``, up to a constant."""
    return (-0.5 * ((action - act(p, x)) / p["log_std"].exp()).square() - p["log_std"]).sum(-1)


def walk(p: Params, goal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Play episodes from the origin with the policies of all tasks.

    Args:
        p: parameters stacked over tasks, ``[T, ...]``.
        goal: ``[T, 2]``.
        noise: ``[H, T, N, 2]``.

    Returns:
        Observations ``[T, H, N, 2]``, actions ``[T, H, N, 2]``, rewards ``[T, H, N]``: minus the distance to the goal.
    """
    x = torch.zeros_like(noise[0])
    steps = []
    for z in noise:
        action = vmap(act)(p, x) + p["log_std"].exp().unsqueeze(1) * z
        after = x + 0.1 * action.clamp(-1, 1)
        steps.append((x, action, -(after - goal.unsqueeze(1)).norm(dim=-1)))
        x = after
    observation, action, reward = (torch.stack(column, 1) for column in zip(*steps, strict=True))
    return observation, action, reward


def advantages(reward: Tensor, discount: float = 0.9) -> Tensor:
    """Return discounted returns-to-go ``[T, H, N]`` minus their mean over episodes, normalised for each task."""
    to_go = [reward[:, -1]]
    for r in reward[:, :-1].unbind(1)[::-1]:
        to_go.append(r + discount * to_go[-1])
    a = torch.stack(to_go[::-1], 1)
    a = a - a.mean(-1, keepdim=True)
    return a / (a.std((1, 2), correction=0, keepdim=True) + 1e-8)


def inner_loss(p: Params, x: Tensor, action: Tensor, advantage: Tensor) -> Tensor:
    """Policy-gradient loss whose second derivative accounts for θ's effect on sampling (Rothfuss et al. 2019)."""
    score = log_prob(p, x, action)
    return -((score - score.detach()).exp() * advantage).mean()


def adapt(theta: Params, alpha: Params, batch: tuple[Tensor, Tensor, Tensor]) -> Params:
    """Return θ' = θ - α ∘ ∇L(θ), for one task."""
    slope = grad(inner_loss)(theta, *batch)
    return {name: p - alpha[name] * slope[name] for name, p in theta.items()}


def meta_loss(
    theta: Params, alpha: Params, support: tuple[Tensor, Tensor, Tensor], query: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Tensor:
    """Return PPO's clipped loss of the adapted policy on the episodes that it played, for one task."""
    x, action, advantage, sampled = query
    ratio = (log_prob(adapt(theta, alpha, support), x, action) - sampled).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def train(iterations: int, *, seed: int = 0) -> Iterator[tuple[float, float]]:
    """Meta-train; at every iteration, yield the mean return before and after adapting, on fresh training goals."""
    generator = torch.Generator().manual_seed(seed)
    theta = {name: p.requires_grad_() for name, p in initial_policy(generator).items()}
    alpha = {name: torch.full_like(p, 0.3).requires_grad_() for name, p in theta.items()}
    groups = [{"params": list(theta.values()), "lr": 3e-3}, {"params": list(alpha.values()), "lr": 0.03}]
    optimizer = torch.optim.Adam(groups)
    for _ in range(iterations):
        goal = torch.rand(TASKS, 2, generator=generator) - 0.5
        noise = torch.randn(2, HORIZON, TASKS, EPISODES, 2, generator=generator)
        with torch.no_grad():  # explore: sample, adapt, sample again
            start = {name: p.expand(TASKS, *p.shape) for name, p in theta.items()}
            x, action, reward = walk(start, goal, noise[0])
            support = (x, action, advantages(reward))
            adapted = vmap(lambda batch: adapt(theta, alpha, batch))(support)
            x, action, after = walk(adapted, goal, noise[1])
            query = (x, action, advantages(after, 0.99), vmap(log_prob)(adapted, x, action))
        for _ in range(3):  # improve: replay the step on the same episodes, now differentiably
            loss = vmap(lambda s, q: meta_loss(theta, alpha, s, q))(support, query).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*theta.values(), *alpha.values()], 1.0)
            optimizer.step()
        yield float(reward.sum(1).mean()), float(after.sum(1).mean())


if __name__ == "__main__":
    for i, (before, after) in enumerate(train(40), 1):
        print(f"iteration {i:3}: return {before:7.2f} before, {after:7.2f} after one gradient step", flush=True)
