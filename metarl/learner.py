"""The learner combines a policy, an update rule and an inner loss, and adapts the policy to one task."""

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
from metarl.losses import A_LOSS, Loss, PreUpdateCredit, parts_of, sample_kl, vpg
from metarl.packing import live_rows, on_live
from metarl.policies import MLP, Policy, is_stacked
from metarl.rules import RuleState, Step, UpdateRule, WhitenedOutputs, decided
from metarl.rules.base import instance, refuse_misfit
from metarl.rules.combine import points_uphill
from metarl.trees import expand, tree_add, tree_detach
from metarl.types import Batch, Params, Trace

NONE: Mapping[str, Tensor] = MappingProxyType({})


class Learner(nn.Module):
    """Everything that is meta-learned, as one module.

    A meta-optimizer optimizes its ``parameters()``; a checkpoint stores its ``state_dict()``. All methods
    are written for one task; ``torch.vmap`` lifts them over tasks.
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
        """Assemble an algorithm from its parts.

        Args:
            policy: holds the initialization θ.
            rule: turns inner gradients into updates; holds its own learned parameters φ, such as step sizes.
            inner: the loss minimised by adaptation, on support batches.
            outer: the loss of the adapted policy, on the query batch; without parameters to learn, which would learn
                to make it small.
            credit: adds a term to the outer loss that credits the exploring policy (E-MAML). Works only with the inner
                loss `vpg`, which may be wrapped in a learned signal or an action baseline.
            every_step: weight of an additional outer loss on every support batch, for the policy that sampled it, so
                that returns during adaptation count as well (the multi-step loss of MAML++, Antoniou et al. 2019,
                arXiv:1810.09502). It uses the advantages stored in the support batches, those of the inner loss.

        Raises:
            TypeError: a policy, rule, loss, credit or weight of the wrong type, such as a class instead of an instance.
            ValueError: credit together with an inner loss whose second derivative already contains it; an outer loss
                with parameters to learn, or an inner loss with `sample_kl`; a weight that is negative or infinite;
                uninitialized (lazy) parameters; a rule that was built for another policy, that only transforms the
                gradient, or that whitens outputs while the output layer is frozen.
        """
        super().__init__()
        checks.of_type("policy", policy, Policy, "a Policy, such as CategoricalPolicy(network)")
        for what, loss in (("inner", inner), ("outer", outer)):
            checks.function(what, loss, A_LOSS)
        _refuse_misplaced(inner, outer)
        if credit is not None:
            checks.of_type("credit", credit, PreUpdateCredit, "a PreUpdateCredit, such as PreUpdateCredit(1.0)")
        if credit is not None and _innermost(inner) is not vpg:
            raise ValueError(
                "pre-update credit is for the inner loss vpg; with any other it would count twice: use vpg"
            )
        checks.number("every_step", every_step)
        if not 0.0 <= every_step < float("inf"):
            raise ValueError(f"every_step must be a finite weight of at least 0, got {every_step}")
        self.policy, self.rule = policy, instance(rule)
        self.inner, self.outer, self.credit, self.every_step = inner, outer, credit, every_step
        self.programs: Programs | None = None
        if any(isinstance(p, UninitializedParameter) for p in self.parameters()):
            raise ValueError(
                "expected parameters of known shapes, got a lazy module's; call it once first, or give its size"
            )
        refuse_misfit(self.rule, policy.initial())
        _refuse_frozen_head(self.rule, policy)
        if points_uphill(self.rule):
            raise ValueError(
                f"expected a rule that returns updates, got {checks.told(rule)} that only transforms the gradient and "
                "would step uphill; let another rule follow, as in Chain(ClipByNorm(1.0), SGD(0.1))"
            )

    def compile(self) -> None:
        """Meta-train with compiled programs from now on; see `metarl.compilation` for when this pays off."""
        self.programs = Programs()

    def run(self, name: str) -> Run:
        """Return the function that runs the pieces of a lifted function, called ``name`` among this learner's."""
        return running(self.programs, name, *(key for key, p in self.named_parameters() if p.requires_grad))

    def start(self, noise: Mapping[str, Tensor] = NONE) -> tuple[Params, RuleState]:
        """Return the initialization θ, with its graph, and the rule's initial state, including a trace's ``noise``."""
        params = self.policy.initial()
        return params, {**self.rule.init(params), **noise}

    def step(self, params: Params, state: RuleState, batch: Batch) -> tuple[Params, RuleState]:
        """Take one adaptation step on a batch ``[H, N, ...]``; differentiable in θ and φ."""
        updates, state = self.rule.update(self.look(params, batch), state)
        return tree_add(params, updates), state

    def look(self, params: Params, batch: Batch) -> Step:
        """Return the inner gradient and whatever else the rule may use for a step on a batch ``[H, N, ...]``."""

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
        """Return, for every affine layer with inputs x, the mean of ``x̄ x̄ᵀ`` over a batch's steps, ``x̄ = (x, 1)``."""
        observation, weight = live_rows(batch, batch.observation)
        return {
            layer: second_moment(rows, weight) for layer, rows in self.policy.layer_inputs(params, observation).items()
        }

    def dynamics(self, params: Params, batch: Batch, layer: str) -> Tensor:
        """Return how the inputs of an affine layer change in a step without an action, ``[F + 1, F + 1]``.

        This is the drift matrix of `metarl.dynamics.linear_dynamics`, for inputs extended by a constant 1.
        """
        return linear_dynamics(batch, lambda rows: homogeneous(self.policy.layer_inputs(params, rows)[layer])).drift

    def information(self, params: Params, batch: Batch) -> Tensor:
        """Return the Fisher information of the network's outputs, averaged over the steps of a batch, ``[A, A]``."""
        observation, weight = live_rows(batch, batch.observation)
        found: Tensor = self.policy(params, observation).information(weight)
        return found

    def decides(self) -> bool:
        """Return whether the rule makes random decisions; see `metarl.rules.base`."""
        return bool(decided(self.rule.init(self.policy.initial())))

    def act(self, params: Params, batch: Batch) -> Distribution:
        """Return the policy's action distribution on a batch ``[H, N, ...]``; its values on padding are undefined."""
        distribution: Distribution = on_live(lambda rows: self.policy(params, rows), batch, batch.observation)
        return distribution

    def adapt(self, support: Sequence[Batch], noise: Mapping[str, Tensor] = NONE) -> Params:
        """Return the parameters after one adaptation step on each of the K support batches."""
        params, state = self.start(noise)
        for batch in support:
            params, state = self.step(params, state, batch)
        return params

    def forward(self, trace: Trace) -> Tensor:
        """Return the meta-objective of one task by replaying its trace: 0-d, differentiable in everything learned."""
        return self.replay(trace)[0]

    def replay(self, trace: Trace) -> tuple[Tensor, Distribution]:
        """Return one task's meta-objective, and the adapted policy's distribution on its query ``[H, N, ...]``."""
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
    """Return the loss inside all wrappers, such as learned signals or an action baseline."""
    while hasattr(loss, "loss"):
        loss = loss.loss
    return loss


def _refuse_misplaced(inner: Loss, outer: Loss) -> None:
    """Check that an outer loss has no parameters, which would learn to make it small, and an inner loss no KL.

    The gradient of the KL is zero at the policy that sampled, from which an adaptation step starts. Its derivative is
    zero as well, but a replay does not see that, because it takes the sampling policy as data.
    """
    if any(one is sample_kl for one in parts_of(inner)):
        raise ValueError(
            "inner loss: expected one without sample_kl, whose gradient is zero where a step starts, so that it would "
            "only bias the meta-gradient; leave it out, or add it to the outer loss"
        )
    if isinstance(outer, nn.Module) and any(p.requires_grad for p in outer.parameters()):
        raise ValueError(
            "outer loss: expected one without parameters to learn, which would learn to make it small, got "
            f"{checks.told(outer)}; use it as the inner loss, or freeze it by requires_grad_(False)"
        )


def _refuse_frozen_head(rule: UpdateRule, policy: Policy) -> None:
    """Check that a rule that whitens the policy's outputs was built for the network's output layer."""
    of_mlp = isinstance(getattr(policy, "network", None), MLP)
    whitened = [part.layer for part in rule.modules() if of_mlp and isinstance(part, WhitenedOutputs)]
    if wrong := [layer for layer in whitened if layer != "network.head"]:
        raise ValueError(
            f"WhitenedOutputs whitens {wrong[0]}, which is not the policy's output layer: expected network.head to be "
            "trainable, not frozen"
        )


def one_number(loss: Tensor, which: str = "outer") -> Tensor:
    """Return the loss of one task after checking that it is 0-d.

    Raises:
        TypeError: it is not a tensor.
        ValueError: it has not been reduced. Summing it here would count padding.
    """
    checks.of_type(f"{which} loss", loss, Tensor, "one number per task, a 0-d tensor with its graph")
    if loss.dim():
        raise ValueError(
            f"{which} loss: expected one number per task, got shape {tuple(loss.shape)}; "
            "reduce it with losses.masked_mean"
        )
    return loss


def second_moment(rows: Tensor, weight: Tensor) -> Tensor:
    """Return the mean ``[F + 1, F + 1]`` of ``x̄ x̄ᵀ``, ``x̄ = (x, 1)``, over rows ``[R, F]`` weighted 1 or 0 ``[R]``."""
    counted = homogeneous(rows) * weight.unsqueeze(-1)
    return counted.mT @ counted / weight.sum().clamp_min(1.0)


def running(programs: Programs | None, *key: str) -> Run:
    """Return the function that runs the pieces of a lifted function: directly, or by the programs under ``key``."""
    return call if programs is None else functools.partial(programs, key)


def refuse_divergence(learner: Learner, params: Params, step: int) -> None:
    """Check that parameters stacked over tasks ``[T, ...]`` are finite after step ``step``, counted from 1.

    Raises:
        NonFiniteError: they are not; the message names the rule, the task and the step.
    """
    if bool(torch.stack([leaf.isfinite().all() for leaf in params.values()]).all()):  # one host-device synchronisation
        return
    bad = torch.stack([~leaf.isfinite().reshape(len(leaf), -1).all(1) for leaf in params.values()]).any(0)
    raise NonFiniteError(
        f"the rule {type(learner.rule).__name__} diverged: the parameters of task {int(bad.nonzero()[0])} "
        f"({int(bad.sum())} of {len(bad)} tasks) are not finite after adaptation step {step}; "
        "lower or bound its step sizes, or check the inner loss for values that are not finite"
    )


@torch.no_grad()
def step_tasks(
    learner: Learner, params: Params, state: RuleState, batch: Batch, *, programs: Programs | None = None
) -> tuple[Params, RuleState]:
    """Take `Learner.step` on every task of a batch ``[T, H, N, ...]``, without a graph; for exploring and evaluating.

    Args:
        learner: not changed.
        params: one initialization shared by all tasks ``[...]``, or one set per task ``[T, ...]``.
        state: the rule's state, shared or stacked like the parameters.
        batch: one batch per task, with advantages.
        programs: if given, take the steps with a compiled program.

    Returns:
        Parameters and rule state, stacked over tasks.
    """
    lift = functools.partial(
        over_tasks, tasks=len(batch.reward), size=piece_size(batch, params), run=running(programs, "step")
    )
    if is_stacked(learner.policy, params):
        params, state = lift(lambda one: learner.step(*one), (params, state, batch))
    elif programs is None:
        params, state = lift(lambda one: learner.step(params, state, one), batch)
    else:  # a program keeps the tensors it closed over when it was traced: pass these as arguments instead
        starts = expand(params, len(batch.reward)), expand(state, len(batch.reward))
        params, state = lift(lambda one: learner.step(*one), (*starts, batch))
    return tree_detach(params), tree_detach(state)
