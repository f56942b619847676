"""The interface of every update rule: two methods, written for one task.

What a rule *learns* are its ``nn.Parameter``s; what it *remembers* between steps is a dict of tensors
that it returns and gets back, so that ``vmap`` lifts it over tasks and replay repeats it exactly.

A rule that acts at random asks for its dice by name: a remembered tensor called ``noise`` is zero in `UpdateRule.init`
and replaced by standard normal numbers, fresh for every task, when a learner explores. What it remembers as ``drawn``
when exploring ends is what a replay begins with: decisions are data, whatever has been learned since. ``odds`` holds
how many times as likely they are now as they were when they were made, by which the rule is given credit for what
adapting gained. No parameter of a policy may be called so, as rules remember things by the names of parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.trees import Tree

RuleState = dict[str, Tensor]

NOISE, DRAWN, ODDS = "noise", "drawn", "odds"


class Step(NamedTuple):
    """What is known when a step is to be taken."""

    grads: Tree
    """gradient of the inner loss (downhill is negative)"""
    params: Mapping[str, Tensor]
    """what it was taken at"""
    loss: Tensor
    """the inner loss there, 0-d"""
    moments: Callable[[], Mapping[str, Tensor]] | None = None
    """gives of every affine layer, by name, the mean of ``x̄ x̄ᵀ`` over the steps of the batch, ``[F + 1, F + 1]``, with
    ``x̄ = (x, 1)`` for the F numbers x that the layer reads; None without a batch"""
    dynamics: Callable[[str], Tensor] | None = None
    """gives of an affine layer D ``[F + 1, F + 1]``, how ``x̄`` changes in a step in which nothing is done; see
    `metarl.dynamics.linear_dynamics`"""
    information: Callable[[], Tensor] | None = None
    """gives the Fisher information of what the policy's network puts out, a mean over the steps of the batch,
    ``[A, A]``; see `metarl.distributions.Distribution.information`"""


class UpdateRule(nn.Module, ABC):
    """How to step: turns gradients into updates to be *added* to the parameters.

    Attributes:
        made_for: shapes of the parameters that it holds something for, by name, or None where any will do; empty if it
            steps all.
    """

    made_for: Mapping[str, tuple[int, ...] | None] = MappingProxyType({})

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """What the rule remembers before its first step; nothing by default."""
        del params
        return {}

    @abstractmethod
    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Updates of the gradients' names and shapes, and the next state.

        Args:
            step: the gradient, where it was taken, and the loss there.
            state: of `init` or of the previous `update`; not changed in place.
        """


class Wrapper(UpdateRule):
    """A rule that changes what another one sees or gives, and remembers what that one remembers."""

    def __init__(self, rule: UpdateRule) -> None:
        """Wraps ``rule``."""
        super().__init__()
        self.rule = instance(rule)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The wrapped rule's state."""
        return self.rule.init(params)


def instance(rule: object) -> UpdateRule:
    """The rule.

    Raises:
        TypeError: it is none, such as a rule's class.
    """
    if not isinstance(rule, UpdateRule):
        raise TypeError(
            f"rule: expected an UpdateRule, such as MetaSGD(policy.initial(), initial=0.1), got {checks.told(rule)}"
        )
    return rule


def shapes_of(params: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name.

    Raises:
        TypeError: no parameters by name, such as a policy or a list of them.
    """
    checks.of_type("params", params, Mapping, "parameters by name, such as policy.initial()")
    return {name: tuple(leaf.shape) for name, leaf in params.items()}


@torch.no_grad()
def refuse_misfit(rule: UpdateRule, params: Mapping[str, Tensor]) -> None:
    """Check that a rule steps these parameters, as far as a step without a batch can tell.

    Raises:
        ValueError: it was made for others, or returns anything but updates of their names and shapes and a state; a
            parameter whose name means something to rules.
    """
    if not params:
        return  # there is nothing to step
    given = {name: leaf.detach() for name, leaf in params.items()}
    grads = {name: torch.ones_like(leaf) for name, leaf in given.items()}
    name = type(rule).__name__
    if taken := [one for one in params if any(_is_called(one, word) for word in (NOISE, DRAWN, ODDS))]:
        raise ValueError(
            f"the policy's parameter {taken[0]} has a name that means something to rules: call it otherwise"
        )
    expected = {name: tuple(leaf.shape) for name, leaf in given.items()}
    for part in rule.modules():
        for one, shape in part.made_for.items() if isinstance(part, UpdateRule) else ():
            if one not in expected or shape not in (None, expected[one]):
                made = one if shape is None else f"{one} of shape {shape}"
                raise ValueError(
                    f"the rule {type(part).__name__} cannot step this policy, it was made for {made}, "
                    f"which is here {expected.get(one, 'no parameter that requires a gradient')}; "
                    "make it from the parameters of this very policy, policy.initial()"
                )
    state = None
    try:
        state = rule.init(given)
        result: Any = rule.update(Step(grads, given, torch.ones(())), state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"the rule {name} cannot step this policy, {type(error).__name__}: {error}; "
            "make it from the parameters of this very policy, policy.initial()"
        ) from error
    except Exception as error:  # an update may need more than is known here
        if state is None and isinstance(error, ValueError):
            raise
        return
    updates = result[0] if isinstance(result, tuple) and len(result) == 2 else result
    came = (
        {name: tuple(u.shape) for name, u in updates.items()} if isinstance(updates, dict) else type(updates).__name__
    )
    if updates is result or came != expected:
        raise ValueError(
            f"the rule {name}: expected update(step, state) to return (updates, state), with updates of {expected}, "
            f"got {'no pair' if updates is result else came}"
        )


def draw_noise(state: RuleState, tasks: int, *, generator: torch.Generator) -> RuleState:
    """Standard normal numbers ``[T, ...]`` for every tensor of a rule's first state that is called ``noise``."""
    return {
        name: torch.randn(tasks, *leaf.shape, generator=generator, device=generator.device).to(leaf)
        for name, leaf in state.items()
        if _is_called(name, NOISE)
    }


def kept(state: RuleState) -> RuleState:
    """What a replay begins with of what a rule remembers when exploring ends: its dice, and what it drew."""
    return {name: leaf for name, leaf in state.items() if _is_called(name, NOISE) or _is_called(name, DRAWN)}


def decided(state: RuleState) -> list[Tensor]:
    """How many times as likely, 0-d, what a rule has decided at random is now; empty for most rules."""
    return [leaf for name, leaf in state.items() if _is_called(name, ODDS)]


def _is_called(name: str, what: str) -> bool:
    return name.rpartition(".")[2] == what
