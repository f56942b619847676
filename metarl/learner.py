"""The learner: a policy, a rule and an inner objective, and how they adapt. Written for one task."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value
from torch.nn.parameter import UninitializedParameter

from metarl import checks
from metarl.compilation import Programs
from metarl.distributions import Distribution
from metarl.dynamics import homogeneous, linear_dynamics
from metarl.errors import NonFiniteError
from metarl.lifting import Run, call, over_tasks, piece_size
from metarl.losses import Loss, PreUpdateCredit, vpg
from metarl.packing import live_rows, on_live
from metarl.policies import MLP, Policy, is_stacked
from metarl.rules import RuleState, Step, UpdateRule, WhitenedOutputs, decided
from metarl.rules.base import instance, refuse_misfit
from metarl.trees import expand, tree_add, tree_detach
from metarl.types import Batch, Params, Trace

NONE: Mapping[str, Tensor] = MappingProxyType({})


class Learner(nn.Module):
    """Everything that is meta-learned.

    ``parameters()`` is what a meta-optimizer sees, ``state_dict()`` is the checkpoint. All methods serve
    one task; ``torch.vmap`` lifts them over tasks.
    """

    def __init__(
        self,
        policy: Policy,
        rule: UpdateRule,
        *,
        inner: Loss,
        outer: Loss,
        credit: PreUpdateCredit | None = None,
        every_step: float = 0.0,
    ) -> None:
        """Puts an algorithm together.

        Args:
            policy: holds the initialization θ.
            rule: turns inner gradients into updates; holds what is learned about stepping, φ.
            inner: the loss of adaptation, on support batches.
            outer: the loss of the adapted policy, on the query batch.
            credit: adds credit to the exploring policy (E-MAML) to the outer loss; for the inner loss `vpg` only, with
                or without a learned signal and an action baseline.
            every_step: weight of the outer loss on every support batch, by the policy that sampled it: what is earned
                while adapting counts, too (a multi-step loss, MAML++, Antoniou et al. 2019, arXiv:1810.09502). It
                reads the advantages that the support has: those of the inner loss.

        Raises:
            TypeError: a policy, rule, loss or credit that is none, such as its class.
            ValueError: credit with an inner loss whose second derivative holds it already; a negative weight; lazy
                parameters; a rule that was made for another policy, or reads outputs of a layer that is frozen.
        """
        super().__init__()
        checks.of_type("policy", policy, Policy, "a Policy, such as CategoricalPolicy(network)")
        for what, loss in (("inner", inner), ("outer", outer)):
            checks.function(what, loss, "a loss, such as metarl.lvc or metarl.Clipped(0.2)")
        if credit is not None:
            checks.of_type("credit", credit, PreUpdateCredit, "a PreUpdateCredit, such as PreUpdateCredit(1.0)")
        if credit is not None and _innermost(inner) is not vpg:
            raise ValueError(
                "pre-update credit completes the inner loss vpg; with another it would count twice: use vpg"
            )
        if not every_step >= 0.0:
            raise ValueError(f"every_step is a weight of at least 0, got {every_step}")
        self.policy, self.rule = policy, instance(rule)
        self.inner, self.outer, self.credit, self.every_step = inner, outer, credit, every_step
        self.programs: Programs | None = None
        if any(isinstance(p, UninitializedParameter) for p in self.parameters()):
            raise ValueError(
                "expected parameters of known shapes, got a lazy module's; call it once before, or say its size"
            )
        refuse_misfit(self.rule, policy.initial())
        _refuse_frozen_head(self.rule, policy)

    def compile(self) -> None:
        """From here on meta-train with compiled programs: see `metarl.compilation` for when it pays."""
        self.programs = Programs()

    def run(self, name: str) -> Run:
        """How to run the pieces of a lifted function of this learner, which ``name`` tells from its others."""
        return running(self.programs, name, *(key for key, p in self.named_parameters() if p.requires_grad))

    def start(self, noise: Mapping[str, Tensor] = NONE) -> tuple[Params, RuleState]:
        """The initialization θ, with its graph, and the rule's first state, with the ``noise`` of a trace in it."""
        params = self.policy.initial()
        return params, {**self.rule.init(params), **noise}

    def step(self, params: Params, state: RuleState, batch: Batch) -> tuple[Params, RuleState]:
        """One adaptation step on a batch ``[H, N, ...]``; differentiable in θ and φ."""
        updates, state = self.rule.update(self.look(params, batch), state)
        return tree_add(params, updates), state

    def look(self, params: Params, batch: Batch) -> Step:
        """What the rule gets to see before a step on a batch ``[H, N, ...]``."""

        def loss(p: Params) -> Tensor:
            return one_number(self.inner(self.act(p, batch), batch), "inner")

        grads, value = grad_and_value(loss)(params)
        return Step(
            grads,
            params,
            value,
            functools.partial(self.moments, params, batch),
            functools.partial(self.dynamics, params, batch),
            functools.partial(self.information, params, batch),
        )

    def moments(self, params: Params, batch: Batch) -> dict[str, Tensor]:
        """Of every affine layer, the mean of ``x̄ x̄ᵀ`` over the steps of a batch, ``x̄ = (x, 1)`` for what it reads."""
        observation, weight = live_rows(batch, batch.observation)
        return {
            layer: second_moment(rows, weight) for layer, rows in self.policy.layer_inputs(params, observation).items()
        }

    def dynamics(self, params: Params, batch: Batch, layer: str) -> Tensor:
        """How what an affine layer reads changes in a step in which nothing is done, ``[F + 1, F + 1]``."""
        return linear_dynamics(batch, lambda rows: homogeneous(self.policy.layer_inputs(params, rows)[layer])).drift

    def information(self, params: Params, batch: Batch) -> Tensor:
        """The Fisher information of what the network puts out, a mean over the steps of a batch, ``[A, A]``."""
        observation, weight = live_rows(batch, batch.observation)
        found: Tensor = self.policy(params, observation).information(weight)
        return found

    def decides(self) -> bool:
        """Whether the rule acts at random: see `metarl.rules.base`."""
        return bool(decided(self.rule.init(self.policy.initial())))

    def act(self, params: Params, batch: Batch) -> Distribution:
        """How the policy acts on the steps of a batch ``[H, N, ...]``; anything on padding."""
        distribution: Distribution = on_live(lambda rows: self.policy(params, rows), batch, batch.observation)
        return distribution

    def adapt(self, support: Sequence[Batch], noise: Mapping[str, Tensor] = NONE) -> Params:
        """The parameters after a step on each of the K support batches."""
        params, state = self.start(noise)
        for batch in support:
            params, state = self.step(params, state, batch)
        return params

    def forward(self, trace: Trace) -> Tensor:
        """The meta-objective of one task by replay: 0-d, differentiable in everything learned."""
        return self.replay(trace)[0]

    def replay(self, trace: Trace) -> tuple[Tensor, Distribution]:
        """The meta-objective of one task, and how the adapted policy acts on its query states ``[H, N, ...]``."""
        params, state = self.start(trace.noise)
        loss = torch.zeros((), device=trace.query.reward.device)
        for batch, lead in zip_longest(trace.support, trace.leads):
            if self.credit is not None:
                explorer = self.act(params, batch)
                loss = loss + self.credit(explorer, batch, trace.outcome, lead)
            if self.every_step:
                acting = self.act(params, batch)
                loss = loss + self.every_step * one_number(self.outer(acting, batch))
            params, state = self.step(params, state, batch)
        for odds in decided(state):
            loss = loss - odds * trace.gain
        adapted = self.act(params, trace.query)
        return loss + one_number(self.outer(adapted, trace.query)), adapted


def _innermost(loss: Any) -> Any:
    """What a loss comes to that wraps another: a learned one, one with an action baseline."""
    while hasattr(loss, "loss"):
        loss = loss.loss
    return loss


def _refuse_frozen_head(rule: UpdateRule, policy: Policy) -> None:
    """Check that a rule that whitens outputs was given the layer that puts them out."""
    of_mlp = isinstance(getattr(policy, "network", None), MLP)
    whitened = [part.layer for part in rule.modules() if of_mlp and isinstance(part, WhitenedOutputs)]
    if wrong := [layer for layer in whitened if layer != "network.head"]:
        raise ValueError(
            f"WhitenedOutputs whitens {wrong[0]}, which does not give the policy's outputs: expected network.head to "
            "be learned, not frozen"
        )


def one_number(loss: Tensor, which: str = "outer") -> Tensor:
    """The loss of one task, 0-d.

    Raises:
        TypeError: no tensor.
        ValueError: it has not been reduced: summed up, it would count padding, and more where there is more of it.
    """
    checks.of_type(f"{which} loss", loss, Tensor, "one number a task, a 0-d tensor with its graph")
    if loss.dim():
        raise ValueError(
            f"{which} loss: expected one number a task, got shape {tuple(loss.shape)}; "
            "reduce it with losses.masked_mean"
        )
    return loss


def second_moment(rows: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``x̄ x̄ᵀ`` over rows ``[R, F]`` of weight 1 or 0 ``[R]``, with ``x̄ = (x, 1)``: ``[F + 1, F + 1]``."""
    counted = homogeneous(rows) * weight.unsqueeze(-1)
    return counted.mT @ counted / weight.sum().clamp_min(1.0)


def running(programs: Programs | None, *key: str) -> Run:
    """How to run the pieces of a lifted function: plainly, or by the programs under this key."""
    return call if programs is None else functools.partial(programs, key)


def refuse_divergence(learner: Learner, params: Params, step: int) -> None:
    """Check that parameters stacked over tasks ``[T, ...]`` are finite after step ``step``, counted from 1.

    Raises:
        NonFiniteError: they are not; tells of which rule, in which task and at which step.
    """
    if bool(torch.stack([leaf.isfinite().all() for leaf in params.values()]).all()):  # one look: a device is waited for
        return
    bad = torch.stack([~leaf.isfinite().reshape(len(leaf), -1).all(1) for leaf in params.values()]).any(0)
    raise NonFiniteError(
        f"the rule {type(learner.rule).__name__} diverged: the parameters of task {int(bad.nonzero()[0])} "
        f"({int(bad.sum())} of {len(bad)} tasks) are not finite after adaptation step {step}; "
        "lower or bound its step sizes, or look for what is not finite in the inner loss"
    )


@torch.no_grad()
def step_tasks(
    learner: Learner, params: Params, state: RuleState, batch: Batch, *, programs: Programs | None = None
) -> tuple[Params, RuleState]:
    """`Learner.step` on every task of a batch ``[T, H, N, ...]``, without a graph: for exploring and evaluating.

    Args:
        learner: not changed.
        params: the start shared by all tasks ``[...]``, or one set a task ``[T, ...]``.
        state: the rule's, shared or stacked as the parameters are.
        batch: one batch a task, with advantages.
        programs: steps by a compiled program.

    Returns:
        Parameters and state, stacked over tasks.
    """
    lift = functools.partial(
        over_tasks, tasks=len(batch.reward), size=piece_size(batch, params), run=running(programs, "step")
    )
    if is_stacked(learner.policy, params):
        params, state = lift(lambda one: learner.step(*one), (params, state, batch))
    elif programs is None:
        params, state = lift(lambda one: learner.step(params, state, one), batch)
    else:  # a program reads what it closes over by identity: hand the start over as an argument
        starts = expand(params, len(batch.reward)), expand(state, len(batch.reward))
        params, state = lift(lambda one: learner.step(*one), (*starts, batch))
    return tree_detach(params), tree_detach(state)
