"""What every meta-optimizer shares: the interface, and the objective as a differentiable replay of a trace."""

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
from metarl.trees import leaves_of, map_leaves
from metarl.types import Trace

Metrics = dict[str, float]


class MetaOptimizer(ABC):
    """Improves a learner, in place, from one trace.

    Attributes:
        share: the fraction of its step sizes in use, in (0, 1]; the training loop lowers it as the budget is spent.
        team: E, how many explore in an iteration: as many as `explorers` gives.
    """

    share: float = 1.0
    team: int = 1

    def explorers(self, learner: Learner, *, generator: torch.Generator) -> list[Learner]:
        """Who explores in this iteration: the learner itself, or E variations of it whose traces are to be joined."""
        del generator
        return [learner]

    @abstractmethod
    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """Change the learner; return metrics by name.

        ``trace`` holds batches ``[T, H, N, ...]``, or ``[E * T, H, N, ...]`` of all explorers, one after another.
        """

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs beside the learner's own state: tensors and plain values. Nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        del state


def meta_loss(learner: Learner, trace: Trace) -> Tensor:
    """Mean of the meta-objective over the tasks of a trace, 0-d, with its graph; all tasks lifted at once.

    The plain form, which `meta_gradient` and `assess` are tested against.
    """
    losses: Tensor = torch.vmap(learner)(trace)
    return losses.mean()


class Pieces(TypedDict):
    """How to lift a function of one task's trace: see `metarl.lifting`."""

    tasks: int
    size: int
    run: Run


def pieces(learner: Learner, trace: Trace, name: str) -> Pieces:
    """How to lift the function of this learner that is called ``name``, over the tasks of a trace."""
    size = piece_size(trace.query, learner.policy.initial())
    return {"tasks": len(trace.outcome), "size": size, "run": learner.run(name)}


def groups(learner: Learner, lr: float, rate_lr: float | None) -> list[dict[str, Any]]:
    """What is `trainable`, as a torch optimizer's groups: the initialization, and what rule and objective learn.

    Raises:
        TypeError: no learner, such as its parameters, or a step size that is no number.
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
    """What there is to improve, in a fixed order."""
    return [p for p in learner.parameters() if p.requires_grad]


def give(learner: Learner, gradient: Sequence[Tensor]) -> None:
    """Put the gradient of what is `trainable` where torch's optimizers look for it, in ``.grad``.

    What is not (or no longer) learned gets none: they step every parameter that has a gradient.
    """
    learner.zero_grad(set_to_none=True)
    for p, slope in zip(trainable(learner), gradient, strict=True):
        p.grad = slope


def refuse_another(learner: Learner, *optimizers: torch.optim.Optimizer) -> None:
    """Check that these optimizers hold what the learner learns: they step the parameters they were built with.

    Raises:
        ValueError: they were built for another learner, and would leave this one as it is.
    """
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    if any(id(p) not in held for p in trainable(learner)):
        raise ValueError("this meta-optimizer was built for another learner: expected the one it was given; build anew")


def meta_gradient(learner: Learner, trace: Trace) -> tuple[Tensor, list[Tensor]]:
    """`meta_loss` and its gradient in what is `trainable`, a piece of the tasks at a time."""
    return gradient_over_tasks(learner, trace, trainable(learner), **pieces(learner, trace, "gradient"))


@torch.no_grad()
def assess(learner: Learner, trace: Trace) -> tuple[float, float]:
    """`meta_loss`, and the mean KL from the policies that sampled the queries to those adapted now.

    A piece of the tasks at a time and without a graph.
    """

    def one(task_trace: Trace) -> tuple[Tensor, Tensor]:
        loss, adapted = learner.replay(task_trace)
        return loss, sample_kl(adapted, task_trace.query)

    losses, kls = over_tasks(one, trace, **pieces(learner, trace, "assess"))
    return float(losses.mean()), float(kls.mean())


def fisher_product(learner: Learner, trace: Trace, vector: Sequence[Tensor]) -> list[Tensor]:
    """The Fisher matrix of the adapted policies times a vector over what is `trainable`.

    ``Jᵀ H J v``, where J is the derivative of the adapted policies' distribution parameters on the query
    states, through adaptation, and H the Hessian of the KL in them (the Gauss-Newton form; Schraudolph
    2002). Where the replayed policies are those that sampled, this is the Hessian of the mean KL that
    `assess` tells: the terms left out have the KL's own gradient as a factor, which is zero there.
    """
    params = trainable(learner)
    tasks = len(trace.outcome)

    def product(piece: tuple[Trace, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        part, copies = piece
        _, adapted = lifted(learner.replay)(part)
        found = leaves_of(adapted)
        probes = [torch.zeros_like(leaf, requires_grad=True) for leaf in found]
        # the pull-back Jᵀu is linear in u, so that its derivative along v, taken in u, is Jv
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
    """Scalar product of two lists of tensors, 0-d."""
    return torch.stack([(a * b).sum() for a, b in zip(left, right, strict=True)]).sum()
