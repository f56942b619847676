"""Checks of the contract of `metarl.rules.UpdateRule`, with messages that explain each violation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from metarl import checks
from metarl.rules import RuleState, Step, UpdateRule, decided
from metarl.testing.parameters import unregistered, unused
from metarl.trees import Tree
from metarl.types import Params

Make = Callable[[Params], UpdateRule]

SMALL = {
    "network.hidden.0.weight": (3, 2),
    "network.hidden.0.bias": (3,),
    "network.head.weight": (2, 3),
    "scale": (),
}


def check_rule(make: Make, *, params: Mapping[str, Tensor] | None = None) -> list[str]:
    """Return descriptions of everything that is wrong with an update rule; empty if nothing was found.

    Args:
        make: a function from parameters by name to the rule, as for ``--rule package.module:NAME``.
        params: the parameters of the policy that the rule is for; those of a small policy by default.

    Checked are:

    - updates have the right names, shapes and dtypes, are finite, and are increments rather than new parameters;
    - the state consists of tensors, keeps its structure and is not modified in place;
    - the rule steps the same task by task as under ``vmap``;
    - everything learned gets a finite gradient;
    - saving and loading restore the rule;
    - it uses no global random numbers of torch when it steps.
    """
    case = _Case(make, SMALL if params is None else {name: tuple(p.shape) for name, p in params.items()})
    found = _foreign(case)
    if found:
        return found
    for check in (_trees, _added, _state, _lifting, _gradients, _checkpoint, _randomness):
        try:
            found.extend(check(case))
        except Exception as error:
            what = (check.__doc__ or "").rstrip(".")
            raised = f"the rule raised {checks.raised(error)}"
            if not any(line.endswith(raised) for line in found):
                found.append(f"{what}: {raised}")
    return found


class _Case(NamedTuple):
    """A rule and the shapes of the parameters that it steps."""

    make: Make
    shapes: Mapping[str, tuple[int, ...]]

    def draw(self, seed: int, dtype: torch.dtype = torch.float64) -> Tree:
        """Draw parameters or gradients."""
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in self.shapes.items()}

    def rule(self, dtype: torch.dtype = torch.float64) -> UpdateRule:
        """Make a new rule."""
        return self.make(self.draw(0, dtype)).to(dtype)

    def step(self, grads: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Step:
        """Return the input of the rule for these gradients and parameters."""
        loss = next(iter(grads.values())).mean()
        layers = {name.removesuffix(".weight"): shape for name, shape in self.shapes.items() if len(shape) == 2}
        moments = {layer: torch.eye(inputs + 1).to(loss) for layer, (_, inputs) in layers.items()}
        outputs = [outputs for outputs, _ in layers.values()][-1:] or [1]
        tilt = torch.linspace(-1.0, 1.0, outputs[0]).to(loss)
        information = 0.1 * torch.eye(outputs[0]).to(loss) + 0.2 * torch.outer(tilt, tilt)
        return Step(
            dict(grads),
            params,
            loss,
            lambda: moments,
            lambda layer: 0.1 * moments[layer].triu(1) + 0.01,
            lambda: information,
        )

    def path(
        self, rule: UpdateRule, params: Mapping[str, Tensor], grads: Mapping[str, Tensor]
    ) -> tuple[Tree, RuleState]:
        """Take three steps; return the weighted sum of their updates and the last state."""
        state, total = rule.init(params), {name: torch.zeros_like(p) for name, p in params.items()}
        for k in range(3):
            updates, state = rule.update(self.step({name: (k + 1) * g for name, g in grads.items()}, params), state)
            total = {name: total[name] + (k + 1) * u for name, u in updates.items()}
        return total, state


def _foreign(case: _Case) -> list[str]:
    """Report an object that is not a rule or does not return a pair; errors raised here are left to the checks."""
    with suppress(Exception):
        rule: object = case.make(case.draw(0))
        if not isinstance(rule, UpdateRule):
            return [f"a rule must be a metarl.rules.UpdateRule; got {checks.told(rule)}"]
        params = case.draw(0)
        returned: object = rule.double().update(case.step(case.draw(1), params), rule.init(params))
        if not isinstance(returned, tuple) or len(returned) != 2:
            return [
                f"update must return (updates, state); got {checks.told(returned)}: return the state, too, even if "
                "unchanged"
            ]
    return []


def _trees(case: _Case) -> Iterator[str]:
    """Names, shapes and dtypes."""
    for dtype in (torch.float32, torch.float64):
        params, grads = case.draw(0, dtype), case.draw(1, dtype)
        rule = case.rule(dtype)
        updates, _ = rule.update(case.step(grads, params), rule.init(params))
        if list(updates) != list(params):
            yield f"updates must have the names of the gradients in the same order, {list(params)}; got {list(updates)}"
            return
        for name, p in params.items():
            u = updates[name]
            if u.shape != p.shape or u.dtype != dtype:
                expected = f"{tuple(p.shape)}, {dtype}"
                yield f"the update of {name} must be {expected}; got {tuple(u.shape)}, {u.dtype}"
            elif not bool(u.isfinite().all()):
                yield f"the update of {name} is not finite"


def _added(case: _Case) -> Iterator[str]:
    """Updates as increments."""
    params, rule = case.draw(0), case.rule()
    nothing = {name: torch.zeros_like(p) for name, p in params.items()}
    updates, _ = rule.update(case.step(nothing, params), rule.init(params))
    if all(torch.allclose(updates[name], p) for name, p in params.items()):
        yield "the updates for a zero gradient are the parameters; expected increments, such as -rate * gradient"


def _state(case: _Case) -> Iterator[str]:
    """State of the rule."""
    params = case.draw(0)
    rule = case.rule()
    state = rule.init(params)
    for k in range(3):
        others = [name for name, value in state.items() if not isinstance(value, Tensor)]
        if others:
            yield f"a rule's state must hold only tensors, so that vmap can lift it; {others} are not tensors"
            return
        before = {name: value.clone() for name, value in state.items()}
        _, after = rule.update(case.step(case.draw(k + 1), params), state)
        if any(not torch.equal(value, before[name]) for name, value in state.items()):
            yield "update modified the given state in place; return a new one, or replay would not be reproducible"
        if {name: (v.shape, v.dtype) for name, v in after.items()} != {
            name: (v.shape, v.dtype) for name, v in before.items()
        }:
            yield f"the state changed its names, shapes or dtypes at step {k}: {sorted(before)} became {sorted(after)}"
            return
        state = after


def _lifting(case: _Case) -> Iterator[str]:
    """Lifting over tasks."""
    many, slopes = [case.draw(k) for k in range(3)], [case.draw(k + 10) for k in range(3)]
    rule = case.rule()

    def stack(trees: list[Tree]) -> Tree:
        return {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}

    together = torch.vmap(lambda p, g: case.path(rule, p, g)[0])(stack(many), stack(slopes))
    alone = stack([case.path(rule, p, g)[0] for p, g in zip(many, slopes, strict=True)])
    wrong = [name for name in alone if not torch.allclose(together[name], alone[name], rtol=1e-9, atol=1e-12)]
    if wrong:
        yield f"under vmap over tasks the rule steps differently than task by task, in {wrong}"


def _gradients(case: _Case) -> Iterator[str]:
    """Gradients of learned parameters."""
    params, grads = case.draw(0), case.draw(1)
    rule = case.rule()
    learned = dict(rule.named_parameters())
    if not learned:
        return
    total, state = case.path(rule, params, grads)
    value = torch.stack([(u * u).sum() for u in total.values()] + decided(state)).sum()
    leaves = list(learned.values())
    slopes = torch.autograd.grad(value, leaves, allow_unused=True) if value.requires_grad else [None] * len(leaves)
    for name, slope in zip(learned, slopes, strict=True):
        if slope is None:
            yield unused(name, "update in three steps")
        elif not bool(slope.isfinite().all()):
            yield f"the gradient of {name} is not finite"


def _checkpoint(case: _Case) -> Iterator[str]:
    """Saving and loading."""
    params, grads = case.draw(0), case.draw(1)
    source, target = case.rule(), case.rule()
    yield from unregistered(source)
    with torch.no_grad():
        for p in source.parameters():
            p.add_(0.01)
    target.load_state_dict(source.state_dict())
    (one, _), (two, _) = (case.path(rule, params, grads) for rule in (source, target))
    if any(not torch.equal(one[name], two[name]) for name in one):
        yield "a rule loaded from a state_dict steps differently: something learned is not an nn.Parameter"
    twin, _ = case.path(copy.deepcopy(source), params, grads)
    if any(not torch.equal(one[name], twin[name]) for name in one):
        yield "a copy of the rule steps differently"


def _randomness(case: _Case) -> Iterator[str]:
    """Random numbers."""
    rule = case.rule()
    before = torch.get_rng_state()
    case.path(rule, case.draw(0), case.draw(1))
    if not torch.equal(before, torch.get_rng_state()):
        yield "the rule draws from torch's global random generator; use a torch.Generator instead"
