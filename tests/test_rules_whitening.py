"""Whitened steps by hand, and their defining law: they do not depend on how a task presents its observations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl import MLP, Batch, CategoricalPolicy, GaussianPolicy, Learner, lvc, packing, vpg
from metarl.learner import second_moment
from metarl.losses import Clipped
from metarl.packing import live_rows, live_steps
from metarl.rules import SGD, Chain, Step, UpdateRule, WhitenedInputs, WhitenedOutputs, affine_layers
from metarl.types import Params
from tests.helpers import make_batch, randomize, seeded

FIRST = "network.hidden.0"
WIRED = torch.tensor(
    [[0.0, 0.0, -3.0], [0.1, 0.0, 0.0], [0.0, 7.0, 0.0]], dtype=torch.float64
)  # order, signs and units
MIXED = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [3.0, 0.0, 1.0]], dtype=torch.float64)


def test_a_whitened_gradient_by_hand() -> None:
    generator = seeded(0)
    moment = torch.tensor([[4.0, 1.0, 0.5], [1.0, 2.0, 0.1], [0.5, 0.1, 1.0]], dtype=torch.float64)
    params = {f"{FIRST}.weight": torch.zeros(5, 2).double(), f"{FIRST}.bias": torch.zeros(5).double()}
    params["network.head.weight"] = torch.zeros(1, 5).double()
    grads = {name: torch.randn(p.shape, generator=generator).double() for name, p in params.items()}
    found, _ = (
        WhitenedInputs(params, [FIRST], ridge=0.5)
        .double()
        .update(Step(grads, params, torch.zeros(()), lambda: {FIRST: moment}), {})
    )
    found = {name: leaf.detach() for name, leaf in found.items()}
    gradient = np.concatenate([grads[f"{FIRST}.weight"].numpy(), grads[f"{FIRST}.bias"].numpy()[:, None]], 1)
    loaded = moment.numpy() + 0.5 * np.diag(np.diag(moment.numpy()))
    expected = 1.5 * gradient @ np.linalg.inv(loaded)
    np.testing.assert_allclose(found[f"{FIRST}.weight"], expected[:, :2], rtol=1e-5)
    np.testing.assert_allclose(found[f"{FIRST}.bias"], expected[:, 2], rtol=1e-5)
    assert torch.equal(found["network.head.weight"], grads["network.head.weight"])


def test_the_second_moment_is_that_of_live_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = episodes()
    rows = [
        np.append(batch.observation[h, n].numpy(), 1.0) for h in range(8) for n in range(4) if float(batch.mask[h, n])
    ]
    found = second_moment(*live_rows(batch, batch.observation))
    np.testing.assert_allclose(found, np.mean([np.outer(row, row) for row in rows], 0), rtol=1e-12)
    assert len(rows) == 26
    monkeypatch.setattr(packing, "FULL", 1.0)  # list them although most steps are live
    listed = batch._replace(live=live_steps(batch.mask.unsqueeze(0))[0])
    assert len(listed.live) == 26
    nowhere = torch.full((2,), batch.mask.numel())  # as where another task has two live steps more
    listed = listed._replace(live=torch.cat([listed.live, nowhere]))
    torch.testing.assert_close(second_moment(*live_rows(listed, listed.observation)), found, rtol=1e-12, atol=1e-12)


def episodes() -> Batch:
    """Episodes ``[8, 4]`` of one task, not all equally long."""
    generator = seeded(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = (torch.arange(8)[:, None] < torch.tensor([8, 5, 7, 6])).double()
    action = torch.randint(0, 2, (8, 4), generator=generator)
    batch = make_batch(draw(8, 4), mask, observation=draw(8, 4, 3) @ MIXED + 0.5, advantage=draw(8, 4), action=action)
    return batch._replace(observation=batch.observation * mask.unsqueeze(-1))


def adapted(rule: UpdateRule, presented: Tensor) -> tuple[Tensor, Tensor]:
    """Logits before and after a step, of a policy that computes the same on observations however presented."""
    batch = episodes()
    policy = CategoricalPolicy(MLP(3, [6], 2, generator=seeded(2))).double()
    randomize(policy, 3, 0.5)
    with torch.no_grad():
        first = policy.get_parameter(f"{FIRST}.weight")
        first.copy_(first @ torch.linalg.inv(presented))
    batch = batch._replace(observation=batch.observation @ presented.mT)
    learner = Learner(policy, rule, inner=lvc, outer=Clipped(0.2))
    params: Params = learner.adapt([batch])
    before, after = (policy(one, batch.observation).logits.detach() for one in (policy.initial(), params))
    return before, after


def make(ridge: float) -> UpdateRule:
    params = {f"{FIRST}.weight": torch.zeros(6, 3), f"{FIRST}.bias": torch.zeros(6)}
    return Chain(WhitenedInputs(params, [FIRST], ridge=ridge), SGD(0.5)).double()


@pytest.mark.parametrize(
    ("ridge", "presented", "near"), [(1.0, WIRED, 1e-9), (1e3, WIRED, 1e-9), (1e-9, WIRED, 1e-4), (1e-9, MIXED, 1e-4)]
)
def test_a_step_does_not_depend_on_how_observations_are_presented(ridge: float, presented: Tensor, near: float) -> None:
    before, after = adapted(make(ridge), torch.eye(3, dtype=torch.float64))
    same, found = adapted(make(ridge), presented)
    torch.testing.assert_close(same, before, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, after, rtol=near, atol=near)
    assert float((after - before).abs().max()) > 0.05


@pytest.mark.parametrize(("rule", "presented"), [(SGD(0.5), WIRED), (make(1e3), MIXED)], ids=["plain", "diagonal"])
def test_other_steps_do(rule: UpdateRule, presented: Tensor) -> None:
    _, after = adapted(rule, torch.eye(3, dtype=torch.float64))
    _, found = adapted(rule, presented)
    assert float((found - after).abs().max()) > 5e-3  # above, 1e-4 at most


def test_what_cannot_be_whitened_is_refused() -> None:
    params = {f"{FIRST}.weight": torch.zeros(5, 2), f"{FIRST}.bias": torch.zeros(5)}
    with pytest.raises(ValueError, match="expected a layer with weight and bias"):
        WhitenedInputs(params, ["network.first"])
    for layers, ridge in (([FIRST], 0.0), ([FIRST], float("inf")), ([], 1.0), ([FIRST, FIRST], 1.0)):
        with pytest.raises(ValueError, match="expected one or more distinct layers and a positive, finite ridge"):
            WhitenedInputs(params, layers, ridge=ridge)
    rule = WhitenedInputs(params, [FIRST])
    with pytest.raises(ValueError, match="the step has no moments of its inputs"):
        rule.update(Step(params, params, torch.zeros(())), {})
    with pytest.raises(ValueError, match="has 2 inputs, not 3"):
        rule.update(Step(params, params, torch.zeros(()), lambda: {FIRST: torch.eye(4)}), {})


def test_every_layer_reads_what_a_plain_network_computes() -> None:
    policy = CategoricalPolicy(MLP(3, [6, 5], 2, generator=seeded(2))).double()
    randomize(policy, 3, 0.5)
    params, batch = policy.initial(), episodes()
    learner = Learner(policy, SGD(0.1), inner=lvc, outer=Clipped(0.2))
    found = learner.moments(params, batch)
    assert list(found) == affine_layers(params) == [FIRST, "network.hidden.1", "network.head"]
    modules = [torch.nn.Linear(a, b).double() for a, b in ((3, 6), (6, 5), (5, 2))]
    read = batch.observation[batch.mask > 0]
    for layer, module in zip(found, modules, strict=True):
        module.load_state_dict({part: params[f"{layer}.{part}"] for part in ("weight", "bias")})
        counted = torch.cat([read, torch.ones(26, 1).double()], 1)
        torch.testing.assert_close(found[layer], counted.T @ counted / 26, rtol=1e-12, atol=1e-12)
        read = module(read).tanh()


def test_where_all_layers_are_whitened_the_step_is_that_of_a_regression() -> None:
    # A linear network in two layers: whitened, each of both moves the logits along the least-squares fit of the
    # advantages' pull on what is observed, whatever the weights; plainly, along directions bent by the weights.
    batch = episodes()
    policy = CategoricalPolicy(MLP(3, [6], 2, activation=lambda x: x, generator=seeded(2))).double()
    with torch.no_grad():
        policy.get_parameter("network.head.weight").copy_(torch.tensor([[0.3] * 6, [-0.3] * 6]))
    layers = [FIRST, "network.head"]
    rule = Chain(WhitenedInputs(policy.initial(), layers, ridge=1e-9), SGD(1e-6)).double()
    slopes = [moved(policy, one, batch) for one in (rule, Chain(SGD(1e-6)))]
    live = batch.mask > 0
    seen = torch.cat([batch.observation[live], torch.ones(26, 1).double()], 1)
    chance = policy(policy.initial(), batch.observation).logits.softmax(-1)[live][:, 1].detach()
    pull = batch.advantage[live] * ((batch.action[live] == 1).double() - chance)
    fit = torch.linalg.lstsq(seen, pull.unsqueeze(1)).solution[:, 0]
    alike = [float(torch.cosine_similarity(seen @ slope, seen @ fit, 0)) for slope in slopes]
    assert alike[0] == pytest.approx(1.0, abs=1e-6) and alike[1] < 0.98


def moved(policy: CategoricalPolicy, rule: UpdateRule, batch: Batch) -> Tensor:
    """By how much a small step changes the difference of the logits, as a linear map ``[4]`` of (o, 1)."""
    learner = Learner(policy, rule, inner=lvc, outer=Clipped(0.2))
    points = torch.cat([torch.eye(3), torch.zeros(1, 3)]).double()
    before, after = (policy(p, points).logits.detach() for p in (policy.initial(), learner.adapt([batch])))
    change = (after - before)[:, 1] - (after - before)[:, 0]
    return torch.cat([change[:3] - change[3], change[3:]])


def one_state(arms: int) -> tuple[CategoricalPolicy, Batch]:
    """A policy of one state with a logit an arm, some of them hardly ever pulled, and 40 pulls."""
    policy = CategoricalPolicy(MLP(1, [], arms, generator=seeded(2))).double()
    randomize(policy, 3, 1.5)
    generator = seeded(4)
    chances = policy(policy.initial(), torch.ones(1, 1, dtype=torch.float64)).logits.softmax(-1)[0].detach()
    action = torch.multinomial(chances, 40, replacement=True, generator=generator).unsqueeze(0)
    advantage = torch.randn(1, 40, generator=generator, dtype=torch.float64)
    ones = torch.ones(1, 40, dtype=torch.float64)
    return policy, make_batch(ones, ones, observation=ones.unsqueeze(-1), advantage=advantage, action=action)


def test_undamped_a_bandits_step_is_the_natural_gradient() -> None:
    # Kakade's: each arm's logit moves by its advantages over its probability, up to what is added to all logits
    policy, batch = one_state(4)
    rule = Chain(WhitenedOutputs(policy.initial(), damping=1e-12), SGD(0.5)).double()
    params = policy.initial()
    p = policy(params, batch.observation[0, :1]).logits.softmax(-1)[0].detach()
    after = Learner(policy, rule, inner=vpg, outer=vpg).adapt([batch])
    moved = (after["network.head.bias"] - params["network.head.bias"]).detach()
    worth = torch.stack([batch.advantage[batch.action == arm].sum() for arm in range(4)]) / 40 / p
    expected = 0.5 * (worth - worth.mean())
    torch.testing.assert_close(moved - moved.mean(), expected, rtol=1e-4, atol=1e-4)  # 1e-6 are always added
    torch.testing.assert_close(after["network.head.weight"][:, 0] - params["network.head.weight"][:, 0], moved)


@pytest.mark.parametrize("make", [CategoricalPolicy, lambda network: GaussianPolicy(network, 2, log_std=-0.7)])
def test_whitened_outputs_by_hand(make: type) -> None:
    policy = make(MLP(3, [6], 2, generator=seeded(2))).double()
    randomize(policy, 3, 0.5)
    params, batch = policy.initial(), episodes()
    if isinstance(policy, GaussianPolicy):
        batch = batch._replace(action=torch.randn(8, 4, 2, generator=seeded(5), dtype=torch.float64))
    rule = WhitenedOutputs(params, damping=0.2).double()
    step = Learner(policy, Chain(rule, SGD(0.1)), inner=lvc, outer=lvc).look(params, batch)
    found, _ = rule.update(step, {})
    live = batch.observation[batch.mask > 0]
    if isinstance(policy, GaussianPolicy):
        information = np.diag(np.exp(-2.0 * policy.log_std.detach().numpy()))
    else:
        p = policy(params, live).logits.softmax(-1).detach().numpy()
        information = np.mean([np.diag(row) - np.outer(row, row) for row in p], 0)
    inverse = np.linalg.inv(information + (0.2 + 1e-6) * np.eye(2))
    for part in ("weight", "bias"):
        gradient = step.grads[f"network.head.{part}"].detach().numpy()
        np.testing.assert_allclose(found[f"network.head.{part}"].detach(), inverse @ gradient, rtol=1e-6)
    assert all(torch.equal(found[name], g) for name, g in step.grads.items() if "head" not in name)


def test_outputs_that_cannot_be_whitened_are_refused() -> None:
    params = {"network.head.weight": torch.zeros(2, 3), "network.head.bias": torch.zeros(2)}
    for given, damping in (({"log_std": torch.zeros(2)}, 0.1), (params, 0.0), (params, math.inf)):
        with pytest.raises(ValueError, match="expected a layer with a weight and a positive, finite damping"):
            WhitenedOutputs(given, damping=damping)
    rule, step = WhitenedOutputs(params), Step(params, params, torch.zeros(()))
    with pytest.raises(ValueError, match="the step has no Fisher information of its outputs"):
        rule.update(step, {})
    with pytest.raises(ValueError, match="has 2 outputs, not 3"):
        rule.update(step._replace(information=lambda: torch.eye(3)), {})
