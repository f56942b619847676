"""Checks of the contract of `metarl.losses.Loss`, with messages that explain each violation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.distributions import Categorical, Distribution, Gaussian
from metarl.losses import Loss
from metarl.testing.parameters import unregistered, unused
from metarl.trees import leaves_of, map_leaves
from metarl.types import Batch

LENGTHS = ((4, 2, 1), (3, 4, 4), (1, 1, 4))  # lengths of the episodes of each task
STEPS = 4
PADDED = 2  # additional padding steps


class Sizes(NamedTuple):
    """The sizes of observations and continuous actions, and the number of discrete actions."""

    observation: int = 3
    action: int = 2
    choices: int = 4


USUAL = Sizes()


class Case(NamedTuple):
    """The arguments of a loss, for one task."""

    distribution: Any
    batch: Batch


def check_loss(
    make: Loss | Callable[[], Loss],
    *,
    sizes: Sizes = USUAL,
    discrete: bool | None = None,
) -> list[str]:
    """Return descriptions of everything that is wrong with a loss; empty if nothing was found.

    Args:
        make: a loss, or a class that makes one without arguments, as for ``--inner-loss package.module:NAME``.
        sizes: sizes of the observations and actions that the loss is made for.
        discrete: whether to use discrete actions; by default, a kind that the loss accepts.

    Checked are:

    - the result is one finite number with the dtype of the inputs, and the same for the same arguments;
    - padding does not affect it;
    - it is the same task by task as under ``vmap``;
    - gradients with respect to the policy are finite, and so are the derivatives of these gradients with respect to
      everything that the loss learns;
    - saving and loading restore the loss;
    - it uses no global random numbers of torch.
    """
    try:
        kind = _kind(make, sizes, (True, False) if discrete is None else (discrete,))
    except Exception as error:
        return [f"the loss raised {checks.raised(error)}"]
    found: list[str] = []
    for stage in ((_number,), (_repetition,), (_padding, _lifting, _gradients, _checkpoint)):
        for check in stage:
            try:
                found.extend(check(make, kind))
            except Exception as error:
                found.append(f"{(check.__doc__ or '').rstrip('.')}: the loss raised {checks.raised(error)}")
        if found:  # later stages rely on this one
            break
    return found


Draw = Callable[..., Case]
"""A function from seed and task to a case with a fixed kind of actions; see `draw_case`."""


def _kind(make: Any, sizes: Sizes, kinds: Sequence[bool]) -> Draw:
    """Return a function that draws cases with the kind of actions that the loss accepts.

    Raises:
        Exception: the first error of the loss, if it accepts none of the kinds.
    """
    raised: list[Exception] = []
    for discrete in kinds:

        def draw(seed: int, task: int = 0, dtype: torch.dtype = torch.float64, discrete: bool = discrete) -> Case:
            return draw_case(seed, task, dtype, discrete=discrete, sizes=sizes)

        try:
            _made(make)(*draw(0))
            return draw
        except Exception as error:
            raised.append(error)
    raise raised[0]


def draw_case(
    seed: int,
    task: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    discrete: bool,
    sizes: Sizes = USUAL,
) -> Case:
    """Draw episodes of one of three tasks and another policy's distributions, which are arbitrary on padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(STEPS)[:, None] < torch.tensor(LENGTHS[task])).to(dtype)
    rows = tuple(mask.shape)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*rows, *shape, generator=generator, dtype=torch.float64).to(dtype)

    def policy() -> Distribution:
        return (
            Categorical(normal(sizes.choices))
            if discrete
            else Gaussian(normal(sizes.action), 0.3 * normal(sizes.action))
        )

    sampling = policy()
    action = torch.randint(sizes.choices, rows, generator=generator) if discrete else normal(sizes.action)
    observation, last = normal(sizes.observation), normal(sizes.observation)[0]
    ends = torch.tensor(LENGTHS[task]) < STEPS
    batch = Batch(
        _masked(observation, mask),
        _masked(action, mask),
        map_leaves(lambda leaf: _masked(leaf, mask), sampling),
        sampling.log_prob(action) * mask,
        normal() * mask,
        mask,
        (torch.arange(STEPS)[:, None] == torch.tensor(LENGTHS[task]) - 1) & ends,
        last.masked_fill(ends[:, None], 0.0),
        normal() * mask,
        normal() * mask,
        torch.empty(0, dtype=torch.int64),
    )
    return Case(policy(), batch)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill((mask == 0).reshape(mask.shape + (1,) * (x.dim() - mask.dim())), 0)


def _made(make: Any, dtype: torch.dtype = torch.float64) -> Any:
    """Make the loss if it is a class, otherwise copy it, so that checks do not affect each other."""
    loss = make() if isinstance(make, type) else copy.deepcopy(make)
    return loss.to(dtype) if isinstance(loss, nn.Module) else loss


def _stacked(cases: Sequence[Case]) -> Case:
    found: Case = map_leaves(lambda *leaves: torch.stack(leaves), *cases)
    return found


def _number(make: Any, draw: Draw) -> Iterator[str]:
    """A single number."""
    for dtype in (torch.float32, torch.float64):
        value = _made(make, dtype)(*draw(0, dtype=dtype))
        if not isinstance(value, Tensor) or value.shape != ():
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            yield f"a loss must be one number per task, of shape (); got {came}; reduce it with losses.masked_mean"
            return
        if value.dtype != dtype:
            yield f"the loss of {dtype} inputs must be {dtype}; got {value.dtype}"
        if not bool(value.isfinite()):
            yield f"the loss must be finite; got {float(value)}"
            return


def _padding(make: Any, draw: Draw) -> Iterator[str]:
    """Padding."""
    loss = _made(make)
    distribution, batch = draw(0)
    value = loss(distribution, batch)
    others = map_leaves(lambda leaf: torch.where(batch.mask.unsqueeze(-1) > 0, leaf, 2.0 * leaf.flip(-1)), distribution)
    if not torch.allclose(loss(others, batch), value, rtol=1e-9, atol=1e-12):
        yield "the policy's distribution after an episode's end changes the loss; count only the steps in batch.mask"

    def longer(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, leaf.new_zeros(PADDED, *leaf.shape[1:])])

    fields = {name: map_leaves(longer, getattr(batch, name)) for name in Batch._fields if name != "last_observation"}
    padded = batch._replace(**fields)._replace(live=batch.live)
    if not torch.allclose(loss(map_leaves(longer, distribution), padded), value, rtol=1e-9, atol=1e-12):
        yield "padding after the last step changes the loss; divide by batch.mask.sum(), not by the number of rows"


def _lifting(make: Any, draw: Draw) -> Iterator[str]:
    """Lifting over tasks."""
    loss, cases = _made(make), [draw(seed, seed) for seed in range(len(LENGTHS))]
    together = torch.vmap(lambda case: loss(*case))(_stacked(cases))
    alone = torch.stack([loss(*case) for case in cases])
    if not torch.allclose(together, alone, rtol=1e-9, atol=1e-12):
        yield "under vmap over tasks the loss differs from that computed task by task"


def _gradients(make: Any, draw: Draw) -> Iterator[str]:
    """Gradients."""
    loss, (distribution, batch) = _made(make), draw(0)
    given = map_leaves(lambda leaf: leaf.clone().requires_grad_(), distribution)
    value = loss(given, batch)
    if not value.requires_grad:
        yield "the loss does not depend on the policy: there is no gradient for adaptation"
        return
    slopes = torch.autograd.grad(value, leaves_of(given), create_graph=True, materialize_grads=True)
    if not all(bool(slope.isfinite().all()) for slope in slopes):
        yield "the gradient with respect to the policy is not finite"
        return
    learned = dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}
    energy = torch.stack([slope.square().sum() for slope in slopes]).sum()
    leaves = [*leaves_of(given), *learned.values()]
    twice = torch.autograd.grad(energy, leaves, allow_unused=True) if energy.requires_grad else [None] * len(leaves)
    if any(slope is not None and not bool(slope.isfinite().all()) for slope in twice):
        yield "the second derivative is not finite"
    for name, slope in zip(learned, twice[len(leaves_of(given)) :], strict=True):
        if slope is None:
            yield unused(name, "step on the loss")


def _repetition(make: Any, draw: Draw) -> Iterator[str]:
    """Repeated calls."""
    loss, case = _made(make), draw(0)
    before = torch.get_rng_state()
    kept = _stacked([case])
    first, second = loss(*case), loss(*case)
    if not torch.equal(before, torch.get_rng_state()):
        yield "the loss draws from torch's global random generator; use a torch.Generator instead"
    elif any(not torch.equal(a, b) for a, b in zip(leaves_of(kept), leaves_of(_stacked([case])), strict=True)):
        yield "the loss modified its arguments in place; make new tensors"
    elif not torch.equal(first, second):
        yield "the loss differs when called again; keep no state between calls, or replay would not reproduce it"


def _checkpoint(make: Any, draw: Draw) -> Iterator[str]:
    """Saving and loading."""
    source, target = _made(make), _made(make)
    yield from unregistered(source)
    if not isinstance(source, nn.Module):
        return
    with torch.no_grad():
        for p in source.parameters():
            p.add_(0.01)
    target.load_state_dict(source.state_dict())
    case = draw(0)
    if not torch.equal(source(*case), target(*case)):
        yield "a loss loaded from a state_dict differs: something learned is not an nn.Parameter"
