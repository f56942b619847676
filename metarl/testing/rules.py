"""What is wrong with an update rule, in plain words: the contract of `metarl.rules.UpdateRule`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from metarl.rules import RuleState, Step, UpdateRule, decided
from metarl.trees import Tree
from metarl.types import Params

Make = Callable[[Params], UpdateRule]

INPUTS, UNITS = 2, 3
READ = {"network.hidden.0": INPUTS, "network.head": UNITS}  # by the layers
SHAPES = {
    "network.hidden.0.weight": (UNITS, INPUTS),
    "network.hidden.0.bias": (UNITS,),
    "network.head.weight": (2, UNITS),
    "scale": (),
}


def check_rule(make: Make) -> list[str]:
    """What is wrong with an update rule; empty if nothing was found.

    Args:
        make: from parameters by name to the rule, as ``--rule package.module:NAME`` is called.

    Checked: names, shapes, dtypes and finite values of updates; a state of tensors whose structure never
    changes and that is not written to; one task at a time as under ``vmap``; finite gradients for all that is
    learned; saving and loading; no use of torch's global random numbers.
    """
    found: list[str] = []
    for check in (_trees, _state, _lifting, _gradients, _checkpoint, _randomness):
        try:
            found.extend(check(make))
        except Exception as error:
            what = (check.__doc__ or "").rstrip(".")
            raised = f"the rule raised {type(error).__name__}: {error}"
            if not any(line.endswith(raised) for line in found):
                found.append(f"{what}: {raised}")
    return found


def _draw(seed: int, dtype: torch.dtype = torch.float64) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def _step(grads: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Step:
    loss = next(iter(grads.values())).mean()
    moments = {layer: torch.eye(width + 1).to(loss) for layer, width in READ.items()}
    information = torch.tensor([[0.3, -0.2], [-0.2, 0.4]]).to(loss)  # of the head's two outputs
    return Step(
        dict(grads),
        params,
        loss,
        lambda: moments,
        lambda layer: 0.1 * moments[layer].triu(1) + 0.01,
        lambda: information,
    )


def _path(rule: UpdateRule, params: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> tuple[Tree, RuleState]:
    """Sums of the updates of three steps, and the last state."""
    state, total = rule.init(params), {name: torch.zeros_like(p) for name, p in params.items()}
    for k in range(3):
        updates, state = rule.update(_step({name: (k + 1) * g for name, g in grads.items()}, params), state)
        total = {name: total[name] + (k + 1) * u for name, u in updates.items()}
    return total, state


def _trees(make: Make) -> Iterator[str]:
    """Names, shapes and dtypes."""
    for dtype in (torch.float32, torch.float64):
        params, grads = _draw(0, dtype), _draw(1, dtype)
        rule = make(params).to(dtype)
        updates, _ = rule.update(_step(grads, params), rule.init(params))
        if list(updates) != list(params):
            yield f"updates must have the names of the gradients in their order, {list(params)}; got {list(updates)}"
            return
        for name, p in params.items():
            u = updates[name]
            if u.shape != p.shape or u.dtype != dtype:
                expected = f"{tuple(p.shape)}, {dtype}"
                yield f"the update of {name} must be {expected}; got {tuple(u.shape)}, {u.dtype}"
            elif not bool(u.isfinite().all()):
                yield f"the update of {name} is not finite"


def _state(make: Make) -> Iterator[str]:
    """What the rule remembers."""
    params = _draw(0)
    rule = make(params).double()
    state = rule.init(params)
    for k in range(3):
        others = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if others:
            yield f"a rule remembers tensors only, so that vmap can lift it; {others} are something else"
            return
        before = {name: value.clone() for name, value in state.items()}
        _, after = rule.update(_step(_draw(k + 1), params), state)
        if any(not torch.equal(value, before[name]) for name, value in state.items()):
            yield "update wrote into the state it was given; return a new one, or replay would not repeat itself"
        if {name: (v.shape, v.dtype) for name, v in after.items()} != {
            name: (v.shape, v.dtype) for name, v in before.items()
        }:
            yield f"the state changed its names, shapes or dtypes at step {k}: {sorted(before)} became {sorted(after)}"
            return
        state = after


def _lifting(make: Make) -> Iterator[str]:
    """Lifting over tasks."""
    many, slopes = [_draw(k) for k in range(3)], [_draw(k + 10) for k in range(3)]
    rule = make(many[0]).double()

    def stack(trees: list[Tree]) -> Tree:
        return {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}

    together = torch.vmap(lambda p, g: _path(rule, p, g)[0])(stack(many), stack(slopes))
    alone = stack([_path(rule, p, g)[0] for p, g in zip(many, slopes, strict=True)])
    wrong = [name for name in alone if not torch.allclose(together[name], alone[name], rtol=1e-9, atol=1e-12)]
    if wrong:
        yield f"lifted over tasks by vmap the rule steps differently than task by task, in {wrong}"


def _gradients(make: Make) -> Iterator[str]:
    """Gradients of what is learned."""
    params, grads = _draw(0), _draw(1)
    rule = make(params).double()
    learned = dict(rule.named_parameters())
    if not learned:
        return
    total, state = _path(rule, params, grads)
    value = torch.stack([(u * u).sum() for u in total.values()] + decided(state)).sum()
    leaves = list(learned.values())
    slopes = torch.autograd.grad(value, leaves, allow_unused=True) if value.requires_grad else [None] * len(leaves)
    for name, slope in zip(learned, slopes, strict=True):
        if slope is None:
            yield f"{name} is learned but no update depends on it in three steps"
        elif not bool(slope.isfinite().all()):
            yield f"the gradient of {name} is not finite"


def _checkpoint(make: Make) -> Iterator[str]:
    """Saving and loading."""
    params, grads = _draw(0), _draw(1)
    source, target = make(params).double(), make(params).double()
    with torch.no_grad():
        for p in source.parameters():
            p.add_(0.01)
    target.load_state_dict(source.state_dict())
    (one, _), (two, _) = (_path(rule, params, grads) for rule in (source, target))
    if any(not torch.equal(one[name], two[name]) for name in one):
        yield "a rule loaded from a state_dict steps differently: something learned is no nn.Parameter"
    twin, _ = _path(copy.deepcopy(source), params, grads)
    if any(not torch.equal(one[name], twin[name]) for name in one):
        yield "a copy of the rule steps differently"


def _randomness(make: Make) -> Iterator[str]:
    """Random numbers."""
    params = _draw(0)
    before = torch.get_rng_state()
    _path(make(params).double(), params, _draw(1))
    if not torch.equal(before, torch.get_rng_state()):
        yield "the rule draws from torch's global random numbers; take a torch.Generator instead"
