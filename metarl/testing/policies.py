"""Checks of the contract of `metarl.policies.Policy`, with messages that explain each violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete, Space
from torch import Tensor

from metarl import checks
from metarl.distributions import Distribution
from metarl.policies import Policy
from metarl.testing.parameters import unregistered, unused
from metarl.types import Params

Make = Callable[[Space[Any], Space[Any]], Policy]

TASKS, ROWS = 3, (4, 2)


def check_policy(make: Make, observations: Space[Any], actions: Space[Any]) -> list[str]:
    """Return descriptions of everything that is wrong with a policy; empty if nothing was found.

    Args:
        make: a function from observation and action space to the policy, as for ``--policy package.module:NAME``.
        observations: the observation space, a Box with one axis.
        actions: the action space.

    Checked are:

    - actions, log-probabilities and entropies have the right shapes; the latter two are finite and have the dtype of
      the parameters;
    - parameters stacked over tasks, also under ``vmap``, give the same results as task by task;
    - first and second derivatives with respect to the parameters are finite, and every parameter affects actions;
    - saving and loading restore the policy;
    - it uses no global random numbers of torch when it acts.
    """
    case = _Case(make, observations, actions)
    for stage in ((_parameters,), (_acting,), (_tasks, _gradients, _checkpoint, _randomness)):
        found: list[str] = []
        for check in stage:
            try:
                found.extend(check(case))
            except Exception as error:
                found.append(f"{(check.__doc__ or '').rstrip('.')}: the policy raised {checks.raised(error)}")
        if found:  # later stages rely on this one
            return found
    return []


class _Case(NamedTuple):
    """A policy and its spaces."""

    make: Make
    observations: Space[Any]
    actions: Space[Any]

    def policy(self, dtype: torch.dtype = torch.float64) -> Policy:
        """Make a new policy."""
        return self.make(self.observations, self.actions).to(dtype)

    def seen(self, *rows: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw standard normal observations."""
        generator, shape = torch.Generator().manual_seed(seed), self.observations.shape or ()
        return torch.randn(*rows, *shape, generator=generator, dtype=torch.float64).to(dtype)

    def params(self, policy: Policy, *tasks: int) -> Params:
        """Return perturbed initial parameters, so that none are exactly zero; stacked over tasks, if given."""
        generator = torch.Generator().manual_seed(1)
        return {
            name: p.detach() + 0.1 * torch.randn((*tasks, *p.shape), generator=generator).to(p)
            for name, p in policy.initial().items()
        }

    def action(self, policy: Policy, distribution: Distribution, *rows: int) -> Tensor:
        """Draw actions with the policy's noise."""
        return distribution.sample(policy.noise(rows, generator=torch.Generator().manual_seed(2)).to(torch.float64))


def _parameters(case: _Case) -> Iterator[str]:
    """Parameters."""
    policy = case.make(case.observations, case.actions)
    if not isinstance(policy, Policy):
        yield f"expected a metarl.policies.Policy, got a {type(policy).__name__}"
    elif not policy.initial():
        yield "the policy has no parameter that requires a gradient: there is nothing to adapt"
    else:
        yield from unregistered(policy)


def _acting(case: _Case) -> Iterator[str]:
    """Acting."""
    for dtype in (torch.float32, torch.float64):
        policy = case.policy(dtype)
        distribution = policy(policy.initial(), case.seen(*ROWS, dtype=dtype))
        noise = policy.noise(ROWS, generator=torch.Generator().manual_seed(0))
        actions = {"sample": distribution.sample(noise.to(dtype)), "mode": distribution.mode()}
        faults = [line for what, action in actions.items() for line in _misshapen(what, action, case.actions)]
        yield from faults
        if faults:
            return
        for action in actions.values():
            told = {"log_prob": distribution.log_prob(action), "entropy": distribution.entropy()}
            for name, value in told.items():
                if tuple(value.shape) != ROWS or value.dtype != dtype:
                    yield f"{name} must be one number per row, {ROWS}, {dtype}; got {tuple(value.shape)}, {value.dtype}"
                elif not bool(value.isfinite().all()):
                    yield f"{name} is not finite"


def _misshapen(what: str, action: Tensor, space: Space[Any]) -> Iterator[str]:
    wanted = (*ROWS, *(space.shape or ()))
    if tuple(action.shape) != wanted:
        yield f"{what}s of {ROWS} rows must have the shape {wanted}; got {tuple(action.shape)}"
    elif isinstance(space, Discrete) and not bool(((action >= 0) & (action < space.n)).all()):
        yield f"{what}s must be whole numbers from 0 to {space.n - 1}; got {action.flatten().tolist()}"


def _tasks(case: _Case) -> Iterator[str]:
    """Many tasks at once."""
    policy = case.policy()
    many, seen = case.params(policy, TASKS), case.seen(TASKS, *ROWS)
    tasks = [({name: leaf[t] for name, leaf in many.items()}, seen[t]) for t in range(TASKS)]
    action = torch.stack([case.action(policy, policy(*task), *ROWS) for task in tasks])

    def alone(params: Params, observation: Tensor, action: Tensor) -> Tensor:
        value: Tensor = policy(params, observation).log_prob(action)
        return value

    one_by_one = torch.stack([alone(*task, action[t]) for t, task in enumerate(tasks)])
    for how, together in (
        ("parameters stacked over tasks", alone(many, seen, action)),
        ("vmap over tasks", torch.vmap(alone)(many, seen, action)),
    ):
        if together.shape != one_by_one.shape or not torch.allclose(together, one_by_one, rtol=1e-9, atol=1e-12):
            yield f"with {how} the policy acts differently than task by task"


def _gradients(case: _Case) -> Iterator[str]:
    """Gradients."""
    policy = case.policy()
    seen, params = case.seen(*ROWS), {name: p.requires_grad_() for name, p in case.params(policy).items()}
    distribution = policy(params, seen)
    action = case.action(policy, distribution, *ROWS).detach()
    value = distribution.log_prob(action).sum()
    slopes = torch.autograd.grad(value, list(params.values()), create_graph=True, allow_unused=True)
    for name, slope in zip(params, slopes, strict=True):
        if slope is None:
            yield unused(name, "action")
        elif not bool(slope.isfinite().all()):
            yield f"the gradient of {name} is not finite"
    energy = torch.stack([slope.square().sum() for slope in slopes if slope is not None]).sum()
    twice = torch.autograd.grad(energy, list(params.values()), allow_unused=True) if energy.requires_grad else []
    if any(slope is not None and not bool(slope.isfinite().all()) for slope in twice):
        yield "the second derivative is not finite"


def _checkpoint(case: _Case) -> Iterator[str]:
    """Saving and loading."""
    source, target, seen = case.policy(), case.policy(), case.seen(*ROWS)
    with torch.no_grad():
        for p in source.parameters():
            p.add_(0.01)
    target.load_state_dict(source.state_dict())
    one, two = (policy(policy.initial(), seen) for policy in (source, target))
    if not torch.equal(one.log_prob(action := case.action(source, one, *ROWS)), two.log_prob(action)):
        yield "a policy loaded from a state_dict acts differently: something it uses is not a parameter or buffer"


def _randomness(case: _Case) -> Iterator[str]:
    """Random numbers."""
    policy = case.policy()
    before = torch.get_rng_state()
    first, second = (policy.noise(ROWS, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    policy(policy.initial(), case.seen(*ROWS))
    if not torch.equal(before, torch.get_rng_state()):
        yield "the policy draws from torch's global random generator; draw noise from the given generator"
    elif not torch.equal(first, second):
        yield "noise from equal generators differs"
