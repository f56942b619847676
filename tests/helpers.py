"""Small families, policies and traces that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from envs import CartPole, Navigation
from metarl import MLP, Batch, CategoricalPolicy, GaussianPolicy, Learner, Network, Plan, Policy, Trace, explore
from metarl.distributions import Categorical
from metarl.losses import sample_kl, vpg
from metarl.rules import SGD, UpdateRule


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Inline:
    """Replaces worker processes, which take seconds to start: does every job when it is submitted."""

    def submit(self, function: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*given))
        return done


def do_jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `experiments.jobs` run its jobs in this process."""
    monkeypatch.setattr("experiments.jobs._processes", lambda count: nullcontext(Inline()))


def linear(inputs: int, outputs: int, *, seed: int) -> nn.Linear:
    """Return a linear layer whose weights are drawn without the global random state."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    generator = seeded(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return layer


class Table(Network):
    """A table of logits ``[S, A]`` by state for one-hot observations, initially zero."""

    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(states, actions))

    def forward(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        weight = params["weight"]
        if weight.dim() == 2:
            return x @ weight
        return x @ weight.reshape(weight.shape[0], *(1,) * (x.dim() - 3), *weight.shape[1:])


def table_policy(logits: Sequence[Sequence[float]] | Tensor) -> CategoricalPolicy:
    """Return a tabular softmax policy in float64."""
    logits = torch.as_tensor(logits, dtype=torch.float64)
    table = Table(*logits.shape).double()
    with torch.no_grad():
        table.weight.copy_(logits)
    return CategoricalPolicy(table)


class Bandit:
    """A bandit of one step and two arms, each of which pays 1 with its own probability; pay-outs are drawn at reset."""

    observation_space = Box(1.0, 1.0, (1,), dtype=np.float32)
    action_space = Discrete(2)
    horizon = 1

    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        first = torch.rand(tasks, generator=generator)
        return {"arm_0": first, "arm_1": 1.0 - first}

    def reset(self, task: Mapping[str, Tensor], rows: tuple[int, ...], *, generator: torch.Generator) -> dict:
        return {"luck": torch.rand(rows, generator=generator).to(task["arm_0"])}

    def observe(self, task: Mapping[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        return torch.ones_like(state["luck"]).unsqueeze(-1)

    def step(self, task: Mapping[str, Tensor], state: dict[str, Tensor], action: Tensor) -> Any:
        chance = torch.where(action == 1, task["arm_1"], task["arm_0"])
        reward = (state["luck"] < chance).to(state["luck"].dtype)
        return state, reward, torch.ones_like(reward, dtype=torch.bool)


class TwoStates:
    """An MDP of two states, two actions and two steps: the action is the next state, the first state a fair coin flip.

    Rewards ``r[s, a]`` are the task's ``pay_sa``. Episodes do not terminate: the time limit ends them.
    """

    observation_space = Box(0.0, 1.0, (2,), dtype=np.float32)
    action_space = Discrete(2)
    horizon = 2

    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        pay = torch.randn(4, tasks, generator=generator)
        return {f"pay_{s}{a}": pay[2 * s + a] for s in range(2) for a in range(2)}

    def reset(self, task: Mapping[str, Tensor], rows: tuple[int, ...], *, generator: torch.Generator) -> dict:
        return {"s": (torch.rand(rows, generator=generator) < 0.5).long()}

    def observe(self, task: Mapping[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        return nn.functional.one_hot(state["s"], 2).to(task["pay_00"].dtype)

    def step(self, task: Mapping[str, Tensor], state: dict[str, Tensor], action: Tensor) -> Any:
        low = torch.where(action == 1, task["pay_01"], task["pay_00"])
        high = torch.where(action == 1, task["pay_11"], task["pay_10"])
        reward = torch.where(state["s"] == 1, high, low)
        return {"s": action}, reward, torch.zeros_like(action, dtype=torch.bool)


class Countdown:
    """A scripted clock: row ``(t, n)`` lives for ``life[t] + n`` steps, and observes its age, which is also its reward.

    After its end an episode continues with the value ``after`` (NaN by default), so that reading beyond the end shows.
    """

    observation_space = Box(-np.inf, np.inf, (1,), dtype=np.float32)
    action_space = Box(-np.inf, np.inf, (1,), dtype=np.float32)

    def __init__(self, horizon: int, after: float = float("nan")) -> None:
        self.horizon, self.after = horizon, after

    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"life": torch.randint(1, self.horizon, (tasks,), generator=generator).float()}

    def reset(self, task: Mapping[str, Tensor], rows: tuple[int, ...], *, generator: torch.Generator) -> dict:
        extra = torch.arange(rows[-1]).to(task["life"])
        return {"age": torch.zeros(rows).to(task["life"]), "life": (task["life"] + extra).expand(rows).clone()}

    def observe(self, task: Mapping[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        return state["age"].unsqueeze(-1)

    def step(self, task: Mapping[str, Tensor], state: dict[str, Tensor], action: Tensor) -> Any:
        age = state["age"] + 1
        over = ~(state["age"] < state["life"])  # true after the end, also once the age is NaN
        age = age.masked_fill(over, self.after)
        return {"age": age, "life": state["life"]}, age.clone(), age == state["life"]


class Stub:
    """A benchmark whose training tasks are those with a value of ``constant`` below ``threshold``."""

    name = "stub"
    splits = ("test",)

    def __init__(self, family: Any, constant: str, threshold: float) -> None:
        self.family, self.constant, self.threshold = family, constant, threshold

    def sample(self, split: str, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        pool = self.family.sample(64 * tasks, generator=generator)
        wanted = (self.is_training(pool) == (split == "train")).nonzero().flatten()[:tasks]
        assert len(wanted) == tasks
        return {name: value[wanted] for name, value in pool.items()}

    def is_training(self, task: Mapping[str, Tensor]) -> Tensor:
        return task[self.constant] < self.threshold

    def fingerprint(self) -> str:
        return f"{type(self.family).__name__} {self.constant} {self.threshold}"


def gaussian_policy(seed: int = 0, hidden: Sequence[int] = (8,), observations: int = 2, actions: int = 2) -> Policy:
    network = MLP(observations, hidden, actions, head_gain=0.5, generator=seeded(seed))
    return GaussianPolicy(network, actions)


def categorical_policy(seed: int = 0, hidden: Sequence[int] = (8,), observations: int = 4, actions: int = 2) -> Policy:
    return CategoricalPolicy(MLP(observations, hidden, actions, head_gain=0.5, generator=seeded(seed)))


def family_and_policy(name: str, seed: int = 0, hidden: Sequence[int] = (8,)) -> tuple[Any, Policy]:
    if name == "navigation":
        return Navigation(horizon=6), gaussian_policy(seed, hidden)
    return CartPole(horizon=30, half_length=0.2), categorical_policy(seed, hidden)


def randomize(module: nn.Module, seed: int, scale: float = 0.3) -> None:
    """Add noise to every parameter, to break symmetries of the initial values."""
    generator = seeded(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))


def double_trace(
    make_rule: Callable[[Policy], UpdateRule],
    *,
    steps: int,
    inner: Any = vpg,
    outer: Any = vpg,
    name: str = "navigation",
    plan: Plan | None = None,
    seed: int = 0,
    hidden: Sequence[int] = (8,),
) -> tuple[Learner, Trace]:
    """Return a learner in float64 and a trace that it explored, both on a small family."""
    family, policy = family_and_policy(name, seed, hidden)
    randomize(policy, seed + 1, 0.1)
    learner = Learner(policy, make_rule(policy), inner=inner, outer=outer).double()
    task = {key: value.double() for key, value in family.sample(3, generator=seeded(seed + 2)).items()}
    plan = plan or Plan(tasks=3, episodes=4, query_episodes=3, steps=steps)
    return learner, explore(learner, family, task, plan, generator=seeded(seed + 3))


def one_task(tree: Any, task: int) -> Any:
    """Return one task's part of a batch or trace stacked over tasks."""
    if isinstance(tree, Tensor):
        return tree[task]
    if isinstance(tree, dict):
        return {name: leaf[task] for name, leaf in tree.items()}
    parts = [one_task(leaf, task) for leaf in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def numeric_gradient(function: Callable[[], float], tensor: Tensor, step: float = 1e-6) -> Tensor:
    """Return central differences of ``function`` in every entry of ``tensor``, which is changed and restored."""
    gradient = torch.zeros_like(tensor)
    flat, out = tensor.data.view(-1), gradient.view(-1)
    for i in range(flat.numel()):
        old = float(flat[i])
        flat[i] = old + step
        high = function()
        flat[i] = old - step
        low = function()
        flat[i] = old
        out[i] = (high - low) / (2 * step)
    return gradient


def relative_error(estimate: Tensor, exact: Tensor) -> float:
    return float((estimate - exact).norm() / exact.norm())


def make_batch(reward: Tensor, mask: Tensor | None = None, terminated: Tensor | None = None, **fields: Tensor) -> Batch:
    """Return a batch ``[..., H, N]`` with given rewards; other fields default to zero, and the mask to one."""
    zero = torch.zeros_like(reward)
    values: dict[str, Any] = {
        "observation": zero.unsqueeze(-1),
        "action": zero.unsqueeze(-1),
        "distribution": Categorical(zero.unsqueeze(-1)),
        "log_prob": zero,
        "reward": reward,
        "mask": torch.ones_like(reward) if mask is None else mask,
        "terminated": torch.zeros_like(reward, dtype=torch.bool) if terminated is None else terminated,
        "last_observation": zero[..., -1, :].unsqueeze(-1),
        "advantage": zero,
        "value": zero,
        "live": torch.empty(*reward.shape[:-2], 0, dtype=torch.int64),
    }
    return Batch(**(values | fields))


def adapted_kl(learner: Learner, trace: Trace) -> Tensor:
    """Return the mean KL divergence, over tasks and query states, from the sampling to the re-adapted policy."""

    def one(task_trace: Trace) -> Tensor:
        return sample_kl(learner.replay(task_trace)[1], task_trace.query)

    return torch.vmap(one)(trace).mean()


def sgd(rate: float = 0.1) -> Callable[[Policy], UpdateRule]:
    return lambda policy: SGD(rate)
