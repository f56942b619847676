"""Adaptation lifted over tasks equals a loop; replay equals exploration; meta-gradients equal finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from envs import Navigation
from metarl import (
    MLP,
    Advantages,
    Clipped,
    Descent,
    Dice,
    GaussianPolicy,
    Learner,
    ModuleNetwork,
    NonFiniteError,
    Plan,
    PreUpdateCredit,
    ZeroBaseline,
    explore,
    lvc,
    meta_step,
    vpg,
)
from metarl import exploration as exploration_module
from metarl.action_baseline import ActionBaseline
from metarl.distributions import Distribution
from metarl.learner import refuse_divergence
from metarl.lifting import over_tasks, piece_size
from metarl.losses import WeightedSum, masked_mean, sample_kl
from metarl.optimizers import meta_loss
from metarl.optimizers.base import meta_gradient
from metarl.policies import Policy
from metarl.rules import (
    SGD,
    BlockDiagonal,
    Bounded,
    Chain,
    ClipByNorm,
    FirstOrder,
    GPSchedule,
    LearnedSGD,
    Masked,
    MetaCurvature,
    MetaSGD,
    Offset,
    PerLayerSGD,
    PerStep,
    Positive,
    RLSchedule,
    Scheduled,
    UpdateRule,
    WhitenedInputs,
    WhitenedOutputs,
)
from metarl.types import Batch, Params, Trace
from tests.helpers import (
    double_trace,
    family_and_policy,
    gaussian_policy,
    make_batch,
    numeric_gradient,
    one_task,
    randomize,
    relative_error,
    seeded,
    sgd,
)


def per_step(policy: Policy, steps: int, rate: float) -> UpdateRule:
    """A rate of its own for every layer and step."""
    return PerStep(*(PerLayerSGD(policy.initial(), initial=rate) for _ in range(steps)))


RULES: dict[str, Callable[[Policy], UpdateRule]] = {
    "sgd": lambda p: SGD(0.1),
    "learned_sgd": lambda p: LearnedSGD(0.1, parameterisation=Positive()),
    "meta_sgd": lambda p: MetaSGD(p.initial(), initial=(0.05, 0.2), generator=seeded(5)),
    "meta_sgd_bounded": lambda p: MetaSGD(p.initial(), initial=0.1, parameterisation=Bounded(0.0, 0.5)),
    "per_layer": lambda p: PerLayerSGD(p.initial(), initial=0.1),
    "per_step": lambda p: per_step(p, 2, 0.1),
    "masked": lambda p: Masked(MetaSGD(p.initial(), initial=0.1), "head", p.initial()),
    "clipped": lambda p: Chain(ClipByNorm(0.05), per_step(p, 3, 0.3)),
    "first_order": lambda p: FirstOrder(MetaSGD(p.initial(), initial=0.1)),
}


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_lifted_over_tasks_equals_a_loop(rule: str, steps: int) -> None:
    learner, trace = double_trace(RULES[rule], steps=steps)
    together = torch.vmap(learner)(trace)
    alone = torch.stack([learner(one_task(trace, t)) for t in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert len({round(float(x), 9) for x in alone.detach()}) == 3  # the tasks do differ
    for t in range(3):
        adapted = learner.adapt(one_task(trace.support, t))
        if steps:
            stacked = torch.vmap(learner.adapt)(trace.support)
            for name, leaf in adapted.items():
                torch.testing.assert_close(stacked[name][t], leaf, rtol=1e-12, atol=1e-12)
        else:
            assert all(torch.equal(leaf, learner.policy.initial()[name]) for name, leaf in adapted.items())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("family_name", ["navigation", "cartpole"])
@pytest.mark.parametrize("rule", ["sgd", "meta_sgd", "per_step", "clipped"])
def test_replay_gives_the_sampling_parameters_bit_for_bit(
    rule: str, family_name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, policy = family_and_policy(family_name)
    learner = Learner(policy, RULES[rule](policy), inner=vpg, outer=vpg)
    randomize(learner, 1, 0.02)
    used: list[dict[str, Tensor]] = []
    real = exploration_module.roll_out

    def recording(policy: Policy, params: dict[str, Tensor], *args: Any, **kwargs: Any) -> Batch:
        used.append(dict(params))
        return real(policy, params, *args, **kwargs)

    monkeypatch.setattr(exploration_module, "roll_out", recording)
    plan = Plan(tasks=5, episodes=4, query_episodes=4, steps=steps)
    trace = explore(learner, family, family.sample(5, generator=seeded(2)), plan, generator=seeded(3))
    assert len(used) == steps + 1
    for k in range(1, steps + 1):
        size = piece_size(trace.query, learner.policy.initial())
        with torch.enable_grad():  # lifted in the pieces in which they were explored
            replayed = over_tasks(learner.adapt, trace.support[:k], tasks=5, size=size)
        assert replayed.keys() == used[k].keys()
        for name, leaf in replayed.items():
            assert torch.equal(leaf, used[k][name]), name
            assert leaf.requires_grad and not used[k][name].requires_grad
    assert not torch.equal(used[0]["network.head.weight"], used[1]["network.head.weight"][0])


def test_recorded_log_probabilities_are_the_replayed_policys() -> None:
    learner, trace = double_trace(RULES["meta_sgd"], steps=2, name="cartpole")
    adapted = torch.vmap(learner.adapt)(trace.support)
    replayed = learner.policy(adapted, trace.query.observation).log_prob(trace.query.action) * trace.query.mask
    torch.testing.assert_close(replayed, trace.query.log_prob, rtol=1e-12, atol=1e-12)


SMOOTH = ["sgd", "learned_sgd", "meta_sgd", "meta_sgd_bounded", "per_step", "clipped"]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(
    ("rule", "family_name"), [*((rule, "navigation") for rule in SMOOTH), ("meta_sgd", "cartpole")]
)
def test_vpg_meta_gradient_equals_central_differences(rule: str, family_name: str, steps: int) -> None:
    learner, trace = double_trace(RULES[rule], steps=steps, name=family_name, hidden=(3,))
    torch.vmap(learner)(trace).mean().backward()
    assert_gradient_is_numeric(learner, learner, trace)


def assert_gradient_is_numeric(learner: Learner, objective: Learner, trace: Trace) -> None:
    """The gradient that ``learner`` holds equals central differences of ``objective`` over the trace."""

    @torch.no_grad()
    def value() -> float:
        return float(torch.vmap(objective)(trace).detach().mean())

    exact, numeric = [], []
    unused = tuple(f"rules.{k}.rates" for k in range(len(trace.support), 3))  # of steps that were not taken
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()) != any(part in name for part in unused), name
        exact.append(parameter.grad.flatten())
        numeric.append(numeric_gradient(value, parameter).flatten())
        # rounding of a difference quotient is about 1e-16 / 1e-6: an absolute error of 1e-9 is its floor
        torch.testing.assert_close(exact[-1], numeric[-1], rtol=1e-6, atol=2e-9)
    assert relative_error(torch.cat(exact), torch.cat(numeric)) < 1e-6


def importance(distribution: Distribution, batch: Batch) -> Tensor:
    """What `lvc` stands for: the sampling policy is data, not a stopped gradient."""
    ratio = (distribution.log_prob(batch.action) - batch.log_prob).exp()
    return -masked_mean(ratio * batch.advantage, batch.mask)


def trajectory_importance(distribution: Distribution, batch: Batch) -> Tensor:
    """What `Dice` (without a baseline) stands for, discounted by 0.9."""
    ratio = ((distribution.log_prob(batch.action) - batch.log_prob) * batch.mask).cumsum(0).exp()
    discount = torch.tensor([0.9**t for t in range(len(ratio))]).double().unsqueeze(-1)
    return -masked_mean(discount * ratio * batch.reward, batch.mask)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("stopped", "weighted"), [(lvc, importance), (Dice(discount=0.9), trajectory_importance)])
def test_lvc_and_dice_meta_gradients_equal_differences_of_importance_weights(
    stopped: Any, weighted: Any, steps: int
) -> None:
    # The value of lvc is constant, so its own difference quotient is no gradient. It equals the importance
    # weighted objective with the sampling policy held fixed, and that one can be differenced.
    raw = Advantages(discount=0.9, baseline=ZeroBaseline(), normalize=False)
    plan = Plan(tasks=3, episodes=4, query_episodes=3, steps=steps, support=raw, query=raw)
    learner, trace = double_trace(RULES["meta_sgd"], steps=steps, inner=stopped, plan=plan, hidden=(3,))
    torch.vmap(learner)(trace).mean().backward()
    assert_gradient_is_numeric(learner, Learner(learner.policy, learner.rule, inner=weighted, outer=vpg), trace)


def test_without_steps_forward_is_the_outer_loss_at_the_initialization() -> None:
    learner, trace = double_trace(RULES["meta_sgd"], steps=0)
    queries = [one_task(trace.query, t) for t in range(3)]
    by_hand = torch.stack([vpg(learner.policy(learner.policy.initial(), q.observation), q) for q in queries])
    torch.testing.assert_close(torch.vmap(learner)(trace), by_hand, rtol=1e-12, atol=1e-12)


def test_an_outer_loss_that_was_not_reduced_is_refused() -> None:
    learner, trace = double_trace(RULES["sgd"], steps=1)
    learner.outer = lambda distribution, batch: -(distribution.log_prob(batch.action) * batch.advantage)
    for every_step in (0.0, 1.0):
        learner.every_step = every_step
        with pytest.raises(ValueError, match=r"outer loss: expected one number per task, got shape \(\d+, \d+\); r"):
            torch.vmap(learner)(trace)


def test_a_kl_as_part_of_the_inner_loss_is_refused_as_it_changes_no_step() -> None:
    plain, trace = double_trace(sgd(0.1), steps=1, inner=vpg, outer=vpg)
    penalised = WeightedSum(((1.0, vpg), (1.0, sample_kl)))
    for inner in (sample_kl, penalised, ActionBaseline(penalised)):
        with pytest.raises(ValueError, match="inner loss: expected one without sample_kl, whose gradient is zero"):
            Learner(plain.policy, SGD(0.1), inner=inner, outer=vpg)
    found, adapted = [], []
    for inner in (vpg, penalised):
        plain.inner = inner
        adapted.append(plain.adapt(one_task(trace, 0).support))
        found.append(torch.cat([leaf.flatten() for leaf in meta_gradient(plain, trace)[1]]))
    for name, leaf in adapted[0].items():
        torch.testing.assert_close(leaf, adapted[1][name], rtol=1e-12, atol=1e-14)
    assert relative_error(found[1], found[0]) > 0.1  # the same steps from anywhere, yet another meta-gradient
    Learner(plain.policy, SGD(0.1), inner=vpg, outer=penalised)


def test_one_step_by_hand() -> None:
    learner, trace = double_trace(RULES["sgd"], steps=1)
    support = one_task(trace.support[0], 1)
    start = {name: p.detach().clone().requires_grad_() for name, p in learner.policy.initial().items()}
    loss = vpg(learner.policy(start, support.observation), support)
    grads = torch.autograd.grad(loss, list(start.values()))
    adapted = learner.adapt((support,))
    for (name, p), g in zip(start.items(), grads, strict=True):
        torch.testing.assert_close(adapted[name], p - 0.1 * g, rtol=1e-12, atol=1e-14)


def test_a_step_does_not_change_its_inputs() -> None:
    learner, trace = double_trace(RULES["per_step"], steps=1)
    params, state = learner.start()
    before = {name: p.detach().clone() for name, p in params.items()}
    after, next_state = learner.step(params, state, one_task(trace.support[0], 0))
    assert all(torch.equal(params[name], old) for name, old in before.items())
    assert int(state["step"]) == 0 and int(next_state["step"]) == 1
    assert any(not torch.equal(after[name], old) for name, old in before.items())


def test_what_is_earned_while_adapting_can_count() -> None:
    learner, trace = double_trace(RULES["sgd"], steps=2)
    counting = Learner(learner.policy, learner.rule, inner=learner.inner, outer=learner.outer, every_step=0.3)
    for t in range(3):
        one = one_task(trace, t)
        expected = learner(one)
        for k in range(2):
            acting = learner.policy(learner.adapt(one.support[:k]), one.support[k].observation)
            expected = expected + 0.3 * learner.outer(acting, one.support[k])
        torch.testing.assert_close(counting(one), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Learner(learner.policy, learner.rule, inner=learner.inner, outer=learner.outer, every_step=-1.0)


def test_pre_update_credit_is_added_for_every_support_batch() -> None:
    learner, trace = double_trace(RULES["sgd"], steps=2)
    with_credit = Learner(learner.policy, learner.rule, inner=vpg, outer=vpg, credit=PreUpdateCredit(0.7, 0.2, 0.3))
    episodes = trace.support[0].mask.shape[-1]
    leads = tuple(torch.randn(3, episodes, generator=seeded(k), dtype=torch.float64) for k in range(2))
    trace = trace._replace(leads=leads)
    for t in range(3):
        one = one_task(trace, t)
        expected = learner(one)
        for k in range(2):
            explorer = learner.policy(learner.adapt(one.support[:k]), one.support[k].observation)
            log_prob = explorer.log_prob(one.support[k].action)
            expected = expected - 0.7 * float(one.outcome) * (log_prob * one.support[k].mask).sum()
            leading = one.support[k]._replace(advantage=leads[k][t].expand_as(one.support[k].mask))
            expected = expected + 0.2 * Clipped(0.3)(explorer, leading)
        torch.testing.assert_close(with_credit(one), expected, rtol=1e-12, atol=1e-12)
    assert float(trace.outcome.abs().max()) > 0


def test_the_checkpoint_holds_everything_learned() -> None:
    make = RULES["meta_sgd"]
    one, two = (Learner(p, make(p), inner=vpg, outer=vpg) for p in (gaussian_policy(1), gaussian_policy(2)))
    randomize(one, 3)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    two.load_state_dict(one.state_dict())
    for (name, a), (other, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)
    moved = two.double()
    assert {p.dtype for p in moved.parameters()} == {torch.float64}  # rates move with .to(), as with devices


def test_a_longer_replay_trace_than_training_is_allowed() -> None:
    learner, _ = double_trace(RULES["per_step"], steps=2)
    family = Navigation(horizon=6)
    task = {name: value.double() for name, value in family.sample(2, generator=seeded(0)).items()}
    trace = explore(learner, family, task, Plan(tasks=2, episodes=2, query_episodes=2, steps=5), generator=seeded(1))
    assert isinstance(trace, Trace) and len(trace.support) == 5
    assert bool(torch.vmap(learner)(trace).isfinite().all())


def test_divergence_is_seen_in_single_numbers_too() -> None:
    learner = Learner(gaussian_policy(), SGD(0.1), inner=vpg, outer=vpg)
    fine = {"scale": torch.ones(3), "weight": torch.ones(3, 2, 4)}  # a 0-d parameter, stacked over three tasks
    refuse_divergence(learner, fine, 1)
    with pytest.raises(NonFiniteError, match=r"task 1 \(2 of 3 tasks\).*step 2"):
        refuse_divergence(learner, {**fine, "scale": torch.tensor([1.0, math.nan, math.inf])}, 2)


def test_a_rule_that_is_none_is_refused_at_once() -> None:
    policy = gaussian_policy()
    with pytest.raises(TypeError, match=r"such as MetaSGD\(policy.initial\(\), initial=0.1\), got <class .*MetaSGD'>"):
        Learner(policy, MetaSGD, inner=vpg, outer=vpg)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["noise", "odds", "drawn"])
def test_a_parameter_whose_name_means_something_to_rules_is_refused(name: str) -> None:
    """Momentum remembers a velocity by that name; exploring would replace it by dice."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_parameter(name, nn.Parameter(torch.zeros(2)))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + getattr(self, name)

    policy = GaussianPolicy(ModuleNetwork(Own()), 2)
    with pytest.raises(ValueError, match=f"parameter network.module.{name} has a name that is reserved for rules"):
        Learner(policy, SGD(0.1), inner=vpg, outer=vpg)


def explored(learner: Learner, tasks: int, steps: int) -> Trace:
    family = Navigation(horizon=4)
    plan = Plan(tasks=tasks, episodes=2, query_episodes=2, steps=steps)
    return explore(learner, family, family.sample(tasks, generator=seeded(0)), plan, generator=seeded(1))


def trained(learner: Learner, tasks: int, steps: int) -> None:
    family = Navigation(horizon=4)
    plan = Plan(tasks=tasks, episodes=2, query_episodes=2, steps=steps)
    task = family.sample(tasks, generator=seeded(0))
    meta_step(learner, Descent(learner, lr=0.01), family, task, plan, generator=seeded(1))


def test_training_refuses_credit_that_cannot_be_computed() -> None:
    policy = gaussian_policy()
    exploring = {"inner": vpg, "outer": vpg, "credit": PreUpdateCredit()}
    acting = Scheduled(SGD(0.1), RLSchedule(steps=2, generator=seeded(0)))
    for credited, who in (
        (Learner(policy, SGD(0.1), **exploring), "credit for exploring"),
        (Learner(policy, acting, inner=vpg, outer=vpg), "the rule Scheduled"),
    ):
        with pytest.raises(ValueError, match=f"{who} compares a task's outcome with those of others.*got 1"):
            trained(credited, 1, 1)
        trained(credited, 2, 2)
        assert len(explored(credited, 1, 2).support) == 2  # to look at one task is no training
    counting = Learner(policy, SGD(0.1), **exploring, every_step=0.5)
    with pytest.raises(ValueError, match=r"expected every_step=0 or one step, got every_step=0.5 and 2 steps"):
        trained(counting, 2, 2)
    trained(counting, 2, 1)


OTHER_SIZES, MORE_LAYERS = [5], [4, 4]


@pytest.mark.parametrize(
    ("rule", "hidden"),
    [
        ("meta_sgd", OTHER_SIZES),
        ("masked", OTHER_SIZES),
        *((rule, MORE_LAYERS) for rule in ("meta_sgd", "masked", "per_layer", "clipped")),
    ],
)
def test_a_rule_for_another_policy_is_refused_at_once(rule: str, hidden: list[int]) -> None:
    policy = GaussianPolicy(MLP(2, hidden, 2, generator=seeded(0)), 2)
    with pytest.raises(
        ValueError, match="cannot step this policy: .*; make the rule from the parameters of this policy"
    ):
        Learner(policy, RULES[rule](gaussian_policy()), inner=vpg, outer=vpg)


HELD_FOR: dict[str, Callable[[Params], UpdateRule]] = {
    "meta-sgd": lambda p: MetaSGD(p, initial=0.1),
    "per-step": lambda p: PerStep(SGD(0.1), MetaSGD(p, initial=0.1)),
    "offset": lambda p: Offset(SGD(0.1), p),
    "curvature": lambda p: Chain(MetaCurvature(p), SGD(0.1)),
    "blocks": lambda p: Chain(BlockDiagonal(p), SGD(0.1)),
    "after whitening": lambda p: Chain(
        WhitenedInputs(gaussian_policy().initial(), ["network.head"]), Offset(SGD(1), p)
    ),
}


@pytest.mark.parametrize("rule", HELD_FOR)
def test_a_rule_with_numbers_for_fewer_units_or_for_other_names_is_refused(rule: str) -> None:
    """One rate would broadcast to a layer's 8, and rates of what is not there would be learned from nothing."""
    policy, make = gaussian_policy(), HELD_FOR[rule]
    narrow = {name: torch.zeros(1) for name in policy.initial()}
    with pytest.raises(ValueError, match=r"cannot step this policy: it was made for \S+ of shape \(1,\), which"):
        Learner(policy, make(narrow), inner=vpg, outer=vpg)
    more = {**policy.initial(), "another.weight": torch.zeros(3)}
    with pytest.raises(
        ValueError, match=r"made for another.weight of shape \(3,\), which is not a trainable parameter"
    ):
        Learner(policy, make(more), inner=vpg, outer=vpg)
    assert Learner(policy, make(policy.initial()), inner=vpg, outer=vpg).start()


def test_rates_of_layers_are_for_layers_of_any_width() -> None:
    policy, wide = gaussian_policy(), {name: torch.zeros(9) for name in gaussian_policy().initial()}
    assert Learner(policy, PerLayerSGD(wide, initial=0.1), inner=vpg, outer=vpg).start()
    with pytest.raises(
        ValueError, match="it was made for another.weight, which is not a trainable parameter in this policy"
    ):
        Learner(policy, PerLayerSGD({**wide, "another.weight": torch.zeros(1)}, initial=0.1), inner=vpg, outer=vpg)


def test_a_schedule_for_another_number_of_tensors_is_refused() -> None:
    policy = gaussian_policy()
    tensors = len(policy.initial())
    with pytest.raises(ValueError, match=f"expected a GPSchedule of {tensors} tensors, as many as the policy's, got 1"):
        Learner(policy, Scheduled(SGD(0.1), GPSchedule(1, steps=1)), inner=vpg, outer=vpg)
    assert Learner(policy, Scheduled(SGD(0.1), GPSchedule(tensors, steps=1)), inner=vpg, outer=vpg).start()


def test_a_rule_of_a_frozen_head_is_refused() -> None:
    """What would be whitened is a hidden layer, by what the head puts out: silently so where both have two units."""
    policy = GaussianPolicy(MLP(2, [2], 2, generator=seeded(0)), 2)
    masked, before = Masked(SGD(0.1), "head", policy.initial()), Chain(WhitenedOutputs(policy.initial()), SGD(0.1))
    policy.network.head.requires_grad_(False)
    after = Chain(WhitenedOutputs(policy.initial()), SGD(0.1))
    for rule, words in (
        (masked, "no parameter name contains 'head'"),
        (before, r"WhitenedOutputs cannot step this policy: it was made for network.head.weight"),
        (after, r"WhitenedOutputs whitens network.hidden.0, .* expected network.head to be trainable, not frozen"),
    ):
        with pytest.raises(ValueError, match=words):
            Learner(policy, rule, inner=vpg, outer=vpg)


def test_parts_in_each_others_place_are_refused_in_one_line() -> None:
    policy = gaussian_policy()
    for parts, words in (
        ({"policy": SGD(0.1), "rule": policy}, "policy: expected a Policy, such as .*, got an SGD"),
        ({"policy": policy.network}, "policy: expected a Policy, such as .*, got an MLP"),
        ({"rule": policy}, "rule: expected an UpdateRule, such as .*, got a GaussianPolicy"),
        ({"credit": 1.0}, "credit: expected a PreUpdateCredit, such as .*, got 1.0"),
    ):
        given: dict[str, Any] = {"policy": policy, "rule": SGD(0.1), "inner": vpg, "outer": vpg}
        with pytest.raises(TypeError, match=f"^{words}$"):
            Learner(**{**given, **parts})


@pytest.mark.parametrize("which", ["inner", "outer"])
@pytest.mark.parametrize("loss", [lambda d, batch: 1.0, lambda d, batch: None], ids=["float", "nothing"])
def test_a_loss_that_gives_no_tensor_is_told_so(which: str, loss: Any) -> None:
    learner = Learner(gaussian_policy(), SGD(0.1), **{"inner": vpg, "outer": vpg, which: loss})
    with pytest.raises(
        TypeError, match=f"{which} loss: expected one number per task, a 0-d tensor with its graph, got"
    ):
        meta_loss(learner, explored(learner, 2, 1 if which == "inner" else 0))


@pytest.mark.parametrize("which", ["inner", "outer"])
@pytest.mark.parametrize("loss", [Clipped, 0.2])
def test_a_loss_that_is_none_is_refused_at_once(which: str, loss: Any) -> None:
    policy = gaussian_policy()
    with pytest.raises(TypeError, match=rf"{which}: expected a loss, such as metarl.lvc or"):
        Learner(policy, SGD(0.1), **{"inner": vpg, "outer": vpg, which: loss})


def test_an_inner_loss_that_is_not_reduced_is_told_so() -> None:
    policy = gaussian_policy()
    learner = Learner(policy, SGD(0.1), inner=lambda d, batch: d.log_prob(batch.action), outer=vpg)
    rows = torch.zeros(3, 2)
    batch = make_batch(rows, observation=torch.zeros(3, 2, 2), action=torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match=r"inner loss: expected one number per task, got shape \(3, 2\); reduce it"):
        learner.step(policy.initial(), {}, batch)


def test_parameters_without_a_shape_are_refused() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(1)

        def forward(self, distribution: Any, batch: Any) -> Tensor:
            return vpg(distribution, batch)

    with pytest.raises(ValueError, match="got a lazy module's; call it once first"):
        Learner(gaussian_policy(), SGD(0.1), inner=Lazy(), outer=vpg)
