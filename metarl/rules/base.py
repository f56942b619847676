"""The interface of every update rule: two methods, written for one task.

The *learned* numbers of a rule are its ``nn.Parameter``s. Its *state* between steps is a dict of tensors that each
call receives and returns, so that ``vmap`` can lift the rule over tasks and replay can repeat it exactly.

A rule that makes random decisions uses three reserved state names:

- ``noise``: zeros in `UpdateRule.init`; the learner replaces them by standard normal numbers, fresh for every task,
  when it explores.
- ``drawn``: the decisions made. Replay starts from their values at the end of exploration, so decisions are data and
  do not depend on what has been learned since.
- ``odds``: the likelihood of these decisions under the current rule divided by their likelihood when they were made.
  Through this ratio the rule gets credit for what adapting gained.

State entries are also named after the policy's parameters, so no policy parameter may have one of these names.
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
    """The inputs of one adaptation step."""

    grads: Tree
    """gradient of the inner loss; it points uphill"""
    params: Mapping[str, Tensor]
    """the parameters at which the gradient was taken"""
    loss: Tensor
    """the inner loss at these parameters, 0-d"""
    moments: Callable[[], Mapping[str, Tensor]] | None = None
    """returns, for every affine layer by name, the mean of ``x̄ x̄ᵀ`` over the steps of the batch, ``[F + 1, F + 1]``,
    with ``x̄ = (x, 1)`` for the F inputs x of the layer; None without a batch"""
    dynamics: Callable[[str], Tensor] | None = None
    """returns, for the affine layer of the given name, the matrix D ``[F + 1, F + 1]`` of the change of ``x̄`` in one
    step without any action; see `metarl.dynamics.linear_dynamics`"""
    information: Callable[[], Tensor] | None = None
    """returns the Fisher information of the outputs of the policy's network, averaged over the steps of the batch,
    ``[A, A]``; see `metarl.distributions.Distribution.information`"""


class UpdateRule(nn.Module, ABC):
    """Turns gradients into updates, which are *added* to the parameters.

    Attributes:
        made_for: the parameters that the rule holds something for: their shapes by name, with None where any shape
            will do. Empty for a rule that can step any parameters.
        maps_gradients: whether `update` returns another gradient, which still points uphill, instead of an update. Such
            a rule needs another one in a `metarl.rules.Chain`.
    """

    made_for: Mapping[str, tuple[int, ...] | None] = MappingProxyType({})
    maps_gradients: bool = False

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the rule's state before its first step; empty by default."""
        del params
        return {}

    @abstractmethod
    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the updates, with the names and shapes of the gradients, and the next state.

        Args:
            step: the gradient, the parameters at which it was taken, and the loss there.
            state: from `init` or from the previous `update`; not modified in place.
        """


class Wrapper(UpdateRule):
    """A rule that changes the inputs or outputs of another rule and shares its state."""

    def __init__(self, rule: UpdateRule) -> None:
        """Wrap ``rule``."""
        super().__init__()
        self.rule = instance(rule)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the wrapped rule's state."""
        return self.rule.init(params)


def instance(rule: object) -> UpdateRule:
    """Return ``rule`` if it is an update rule.

    Raises:
        TypeError: it is not one, for example a rule's class instead of an instance.
    """
    if not isinstance(rule, UpdateRule):
        raise TypeError(
            f"rule: expected an UpdateRule, such as MetaSGD(policy.initial(), initial=0.1), got {checks.told(rule)}"
        )
    return rule


def shapes_of(params: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of parameters by name.

    Raises:
        TypeError: ``params`` is not a mapping from names to parameters, but for example a policy or a list.
    """
    checks.of_type("params", params, Mapping, "parameters by name, such as policy.initial()")
    return {name: tuple(leaf.shape) for name, leaf in params.items()}


@torch.no_grad()
def refuse_misfit(rule: UpdateRule, params: Mapping[str, Tensor]) -> None:
    """Check that a rule can step these parameters, as far as a trial step without a batch can show.

    Raises:
        ValueError: the rule was made for other parameters; it does not return a pair of updates, with the names and
            shapes of these parameters, and a state; or a parameter has a name that is reserved for rules.
    """
    if not params:
        return  # nothing to step
    given = {name: leaf.detach() for name, leaf in params.items()}
    grads = {name: torch.ones_like(leaf) for name, leaf in given.items()}
    name = type(rule).__name__
    if taken := [one for one in params if any(_is_called(one, word) for word in (NOISE, DRAWN, ODDS))]:
        raise ValueError(
            f"the policy's parameter {taken[0]} has a name that is reserved for rules: choose another name"
        )
    expected = {name: tuple(leaf.shape) for name, leaf in given.items()}
    for part in rule.modules():
        for one, shape in part.made_for.items() if isinstance(part, UpdateRule) else ():
            if one not in expected or shape not in (None, expected[one]):
                made = one if shape is None else f"{one} of shape {shape}"
                raise ValueError(
                    f"the rule {type(part).__name__} cannot step this policy: it was made for {made}, "
                    f"which is {expected.get(one, 'not a trainable parameter')} in this policy; "
                    "make the rule from the parameters of this policy, policy.initial()"
                )
    state = None
    try:
        state = rule.init(given)
        result: Any = rule.update(Step(grads, given, torch.ones(())), state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"the rule {name} cannot step this policy: {checks.raised(error)}; "
            "make the rule from the parameters of this policy, policy.initial()"
        ) from error
    except Exception as error:  # the update may need inputs that this trial step lacks, such as a batch
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
    """Draw standard normal numbers ``[T, ...]`` for every tensor called ``noise`` in a rule's initial state."""
    return {
        name: torch.randn(tasks, *leaf.shape, generator=generator, device=generator.device).to(leaf)
        for name, leaf in state.items()
        if _is_called(name, NOISE)
    }


def kept(state: RuleState) -> RuleState:
    """Return the part of a rule's final state from exploration that replay starts from: its noise and its decisions."""
    return {name: leaf for name, leaf in state.items() if _is_called(name, NOISE) or _is_called(name, DRAWN)}


def decided(state: RuleState) -> list[Tensor]:
    """Return the likelihood ratios, 0-d, of a rule's random decisions, now over then; empty for most rules."""
    return [leaf for name, leaf in state.items() if _is_called(name, ODDS)]


def _is_called(name: str, what: str) -> bool:
    return name.rpartition(".")[2] == what
