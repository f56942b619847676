"""The interface of meta-optimizers, and the meta-objective as a differentiable replay of a trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.autograd import grad

from metarl import checks
from metarl.learner import Learner
from metarl.lifting import Run, gradient_over_tasks, lifted, over_tasks, piece_size, sum_over_pieces
from metarl.losses import sample_kl
from metarl.rules.combine import is_first_order
from metarl.trees import leaves_of, map_leaves
from metarl.types import Trace

Metrics = dict[str, float]


class MetaOptimizer(ABC):
    """Improves a learner in place, from one trace.

    Attributes:
        share: factor on its step sizes, in (0, 1], for a learning-rate schedule: a training loop may lower it as the
            budget is used up.
        team: E, the number of learners that `explorers` returns.
    """

    share: float = 1.0
    team: int = 1

    def refuse(self, learner: Learner) -> None:
        """Check that this meta-optimizer can improve the learner; by default it can improve any.

        Raises:
            ValueError: it cannot.
        """
        del learner

    def explorers(self, learner: Learner, *, generator: torch.Generator) -> list[Learner]:
        """Return the learners that explore in this iteration: the learner itself, or E perturbed copies of it."""
        del generator
        return [learner]

    @abstractmethod
    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """Improve the learner in place; return metrics by name.

        ``trace`` holds batches ``[T, H, N, ...]``, or the concatenated batches ``[E * T, H, N, ...]`` of all explorers.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs besides the learner's state, as tensors and plain values; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        del state


def meta_loss(learner: Learner, trace: Trace) -> Tensor:
    """Return the mean of the meta-objective over the tasks of a trace, 0-d, with its graph; all tasks lifted at once.

    This is the simple implementation that `meta_gradient` and `assess` are tested against.
    """
    losses: Tensor = torch.vmap(learner)(trace)
    return losses.mean()


class Pieces(TypedDict):
    """Keyword arguments for lifting a function of one task's trace; see `metarl.lifting`."""

    tasks: int
    size: int
    run: Run


def pieces(learner: Learner, trace: Trace, name: str) -> Pieces:
    """Return the arguments for lifting a function of this learner, called ``name``, over the tasks of a trace."""
    size = piece_size(trace.query, learner.policy.initial())
    return {"tasks": len(trace.outcome), "size": size, "run": learner.run(name)}


def groups(learner: Learner, lr: float, rate_lr: float | None) -> list[dict[str, Any]]:
    """Return parameter groups for a torch optimizer: the initialization, and what the rule and the losses learn.

    Raises:
        TypeError: not a learner, but for example its parameters; or a step size that is not a number.
        ValueError: a step size that is not positive and finite, or nothing to learn.
    """
    checks.of_type("learner", learner, Learner, "a Learner")
    sizes = {"lr": lr} if rate_lr is None else {"lr": lr, "rate_lr": rate_lr}
    for name, value in sizes.items():
        checks.number(name, value)
        if not 0.0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not trainable(learner):
        raise ValueError("nothing to learn: all parameters of the learner are frozen; learner.requires_grad_(True)")
    policy = {id(p) for p in learner.policy.parameters()}
    first = [p for p in trainable(learner) if id(p) in policy]
    rest = [p for p in trainable(learner) if id(p) not in policy]
    found = [{"params": first, "lr": lr}, {"params": rest, "lr": lr if rate_lr is None else rate_lr}]
    return [group for group in found if group["params"]]


def trainable(learner: Learner) -> list[nn.Parameter]:
    """Return the parameters to optimize, in a fixed order."""
    return [p for p in learner.parameters() if p.requires_grad]


def give(learner: Learner, gradient: Sequence[Tensor]) -> None:
    """Store the gradient of the `trainable` parameters in ``.grad``, for torch's optimizers.

    All other gradients are removed, because torch's optimizers step every parameter that has one, also one that was
    frozen in the meantime.
    """
    learner.zero_grad(set_to_none=True)
    for p, slope in zip(trainable(learner), gradient, strict=True):
        p.grad = slope


def refuse_another(learner: Learner, *optimizers: torch.optim.Optimizer) -> None:
    """Check that these optimizers hold the learner's parameters; an optimizer steps only those it was built with.

    Raises:
        ValueError: they were built for another learner, and would leave this one unchanged.
    """
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    if any(id(p) not in held for p in trainable(learner)):
        raise ValueError("this meta-optimizer was built for another learner: build a new one for this learner")


def refuse_first_order(learner: Learner) -> None:
    """Check that a meta-gradient reaches what the inner loss learns, if it learns anything.

    Raises:
        ValueError: the rule's `metarl.rules.FirstOrder` treats the gradient of that loss as a constant.
    """
    learned = isinstance(learner.inner, nn.Module) and any(p.requires_grad for p in learner.inner.parameters())
    if learned and is_first_order(learner.rule):
        raise ValueError(
            f"the inner loss {type(learner.inner).__name__} would not learn: expected a rule that passes the "
            "meta-gradient on to it, got FirstOrder; use another rule, an inner loss without parameters, or Evolution"
        )


def meta_gradient(learner: Learner, trace: Trace) -> tuple[Tensor, list[Tensor]]:
    """Return `meta_loss` and its gradient with respect to the `trainable` parameters, computed piece by piece."""
    return gradient_over_tasks(learner, trace, trainable(learner), **pieces(learner, trace, "gradient"))


@torch.no_grad()
def assess(learner: Learner, trace: Trace) -> tuple[float, float]:
    """Return `meta_loss`, and the mean KL from the policies that sampled the queries to the policies adapted now.

    Computed piece by piece and without a graph.
    """

    def one(task_trace: Trace) -> tuple[Tensor, Tensor]:
        loss, adapted = learner.replay(task_trace)
        return loss, sample_kl(adapted, task_trace.query)

    losses, kls = over_tasks(one, trace, **pieces(learner, trace, "assess"))
    return float(losses.mean()), float(kls.mean())


def fisher_product(learner: Learner, trace: Trace, vector: Sequence[Tensor]) -> list[Tensor]:
    """Return the Fisher matrix of the adapted policies times a vector over the `trainable` parameters.

    The product is ``Jᵀ H J v`` (the Gauss-Newton form; Schraudolph 2002). J is the derivative, through adaptation, of
    the adapted policies' distribution parameters on the query states, and H is the Hessian of the KL with respect to
    these distribution parameters. If the replayed policies are those that sampled, ``Jᵀ H J`` is the exact Hessian of
    the mean KL that `assess` returns: the omitted terms contain the gradient of the KL, which is zero there.
    """
    params = trainable(learner)
    tasks = len(trace.outcome)

    def product(piece: tuple[Trace, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        part, copies = piece
        _, adapted = lifted(learner.replay)(part)
        found = leaves_of(adapted)
        probes = [torch.zeros_like(leaf, requires_grad=True) for leaf in found]
        # Jᵀu (a vector-Jacobian product) is linear in u, so the gradient of ⟨Jᵀu, v⟩ with respect to u is Jv
        pulled = grad(dot(found, probes), params, create_graph=True, materialize_grads=True)
        moved = grad(dot(pulled, [leaf[0] for leaf in copies]), probes, retain_graph=True, materialize_grads=True)
        fixed = map_leaves(lambda leaf: leaf.detach().requires_grad_(), adapted)
        kl = lifted(lambda pair: sample_kl(*pair))((fixed, part.query)).sum()
        slope = grad(kl, leaves_of(fixed), create_graph=True)
        curved = grad(dot(slope, moved), leaves_of(fixed), materialize_grads=True)
        return grad(dot(found, curved), params, materialize_grads=True)

    given = trace, tuple(leaf.expand(tasks, *leaf.shape) for leaf in vector)
    return [leaf / tasks for leaf in sum_over_pieces(product, given, **pieces(learner, trace, "fisher"))]


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the scalar product of two lists of tensors, 0-d."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()
