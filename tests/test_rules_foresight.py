"""Foresight: the dynamics against known ones, the step by hand, and what the step must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from metarl import MLP, Batch, CategoricalPolicy, Learner, lvc, packing
from metarl.distributions import Categorical, Gaussian
from metarl.dynamics import effects, homogeneous, least_squares, linear_dynamics, successors
from metarl.losses import Clipped
from metarl.packing import live_steps
from metarl.rules import SGD, Chain, FirstOrder, Foresight, Step, UpdateRule, WhitenedInputs, affine_layers
from metarl.transitions import TransitionNetwork
from metarl.trees import tree_dot
from tests.helpers import make_batch, randomize, seeded

HEAD = "network.head"
CHANGE = torch.tensor(
    [[-0.1, 0.3, 0.05], [0.2, 0.05, -0.1], [0.0, 0.0, 0.0]], dtype=torch.float64
)  # of (x, 1) where nothing is done
PUSH = torch.tensor([0.3, -0.2], dtype=torch.float64)
MIXED = torch.tensor([[1.0, 2.0], [-3.0, 1.0]], dtype=torch.float64)


def system(*, presented: Tensor | None = None, delay: int = 0, steps: int = 12, episodes: int = 6) -> Batch:
    """Episodes of a linear system that is pushed to and fro; the last ends by the clock, the others by the task.

    With a delay a push is under way when an episode begins, which nobody has seen.
    """
    generator = seeded(0)
    x = torch.randn(episodes, 2, generator=generator, dtype=torch.float64)
    action = torch.randint(0, 2, (steps, episodes), generator=generator)
    pushed = torch.cat([torch.randint(0, 2, (delay, episodes), generator=generator), action])
    seen = []
    for t in range(steps):
        seen.append(x)
        x = x + torch.cat([x, torch.ones(episodes, 1).double()], -1) @ CHANGE[:2].mT
        x = x + (pushed[t].double() - 0.5).unsqueeze(-1) * PUSH
    ends = torch.tensor([3, 1, 7, 9] + [steps] * (episodes - 4))  # one of them by the task at the last step of all
    time = torch.arange(steps).unsqueeze(-1)
    mask = (time < ends).double()
    terminated = time == ends - 1
    terminated[-1, -1] = False
    advantage = torch.randn(steps, episodes, generator=generator, dtype=torch.float64)
    observation = torch.stack(seen)
    matrix = torch.eye(2).double() if presented is None else presented
    batch = make_batch(
        torch.zeros_like(mask), mask, observation=observation @ matrix.mT, advantage=advantage, action=action
    )
    return batch._replace(
        observation=batch.observation * mask.unsqueeze(-1),
        last_observation=(x @ matrix.mT) * (mask[-1] * ~terminated[-1]).unsqueeze(-1),
        terminated=terminated,
        distribution=Categorical(torch.zeros(steps, episodes, 2).double()),
    )


def learner_of(rule: UpdateRule, presented: Tensor | None = None) -> Learner:
    """A linear policy that computes the same on observations however presented."""
    policy = CategoricalPolicy(MLP(2, [], 2, generator=seeded(2))).double()
    randomize(policy, 3, 0.5)
    if presented is not None:
        with torch.no_grad():
            weight = policy.get_parameter(f"{HEAD}.weight")
            weight.copy_(weight @ torch.linalg.inv(presented))
    return Learner(policy, rule.double(), inner=lvc, outer=Clipped(0.2))


PARAMS = {f"{HEAD}.weight": torch.zeros(2, 2).double(), f"{HEAD}.bias": torch.zeros(2).double()}


def make(*, ridge: float = 0.5, horizon: float = 7.0) -> UpdateRule:
    return Chain(Foresight(WhitenedInputs(PARAMS, [HEAD], ridge=ridge), PARAMS, HEAD, horizon=horizon), SGD(0.5))


@pytest.mark.parametrize("delay", [0, 1])
def test_known_dynamics_are_found(delay: int) -> None:
    learner, batch = learner_of(SGD(1.0)), system(delay=delay)
    found = learner.dynamics(learner.policy.initial(), batch, HEAD)
    torch.testing.assert_close(found, CHANGE, rtol=0.0, atol=3e-4)  # a ridge of 1e-5, and 34 of 72 steps tell something


def test_what_comes_after_an_end_is_not_made_up() -> None:
    batch = system()
    after, known = successors(batch)
    assert known.sum(0).tolist() == [2.0, 0.0, 6.0, 8.0, 11.0, 12.0]  # one less than an episode that has ended
    rows = known > 0.0
    torch.testing.assert_close(after[:-1][rows[:-1]], batch.observation[1:][rows[:-1]])
    torch.testing.assert_close(after[-1][rows[-1]], batch.last_observation[rows[-1]])


def test_least_squares_of_numpy() -> None:
    generator = seeded(4)
    rows, target = (torch.randn(30, size, generator=generator) for size in (5, 3))
    weight = (torch.arange(30) % 3 > 0).float()
    expected, *_ = np.linalg.lstsq(rows.numpy()[weight > 0], target.numpy()[weight > 0], rcond=None)
    np.testing.assert_allclose(least_squares(rows, target, weight), expected, atol=1e-4)


def test_least_squares_of_little_or_nothing_are_finite() -> None:
    for rows, weight in ((1, 1.0), (4, 0.0), (4, 1.0)):
        found = least_squares(torch.ones(rows, 3), torch.zeros(rows, 2), torch.full((rows,), weight))
        assert torch.equal(found, torch.zeros(3, 2))


@pytest.mark.parametrize("delay", [0, 1])
def test_what_an_action_does_is_told_from_what_would_have_come(delay: int) -> None:
    batch = system(delay=delay)
    found = effects(batch)
    expected = (batch.action.double() - 0.5).unsqueeze(-1) * PUSH
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-3)
    fitted = linear_dynamics(batch, homogeneous)
    still, moving = (fitted.push, fitted.late) if delay else (fitted.late, fitted.push)
    assert float(still.abs().max()) < 1e-3 < 0.1 < float(moving.abs().max())


def test_a_learned_signal_sees_what_actions_do() -> None:
    batch = system(delay=1)
    plain, telling = (
        TransitionNetwork(2, 2, discrete=True, effects=told, generator=seeded(0)).double() for told in (False, True)
    )
    seen = telling.transitions(batch)
    assert torch.equal(seen[..., :-2], plain.transitions(batch)) and torch.equal(seen[..., -2:], effects(batch))
    randomize(telling, 1, 0.5)
    turned = batch._replace(observation=-batch.observation, last_observation=-batch.last_observation)
    assert float((telling(turned) - telling(batch)).detach().abs().max()) > 0.01


def test_the_same_dynamics_from_live_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = learner_of(SGD(1.0)), system()
    monkeypatch.setattr(packing, "FULL", 1.0)  # list them although most steps are live
    listed = batch._replace(live=live_steps(batch.mask.unsqueeze(0))[0])
    assert 0 < len(listed.live) < batch.mask.numel()
    params = learner.policy.initial()
    torch.testing.assert_close(learner.dynamics(params, listed, HEAD), learner.dynamics(params, batch, HEAD))


def test_what_actions_push() -> None:
    action = torch.tensor([0, 2])
    expected = torch.tensor([[2.0, -1.0, -1.0], [-1.0, -1.0, 2.0]]) / 3.0
    torch.testing.assert_close(Categorical(torch.zeros(2, 3)).push(action), expected)
    pushed = torch.tensor([[0.5, -2.0]])
    assert torch.equal(Gaussian(torch.ones(1, 2), torch.zeros(1, 2)).push(pushed), pushed)


def test_a_step_by_hand() -> None:
    generator = seeded(5)
    moment = torch.tensor([[4.0, 1.0, 0.5], [1.0, 2.0, 0.1], [0.5, 0.1, 1.0]], dtype=torch.float64)
    grads = {name: torch.randn(p.shape, generator=generator).double() for name, p in PARAMS.items()}
    step = Step(grads, PARAMS, torch.zeros(()), lambda: {HEAD: moment}, lambda layer: {HEAD: CHANGE}[layer])
    found, _ = make(ridge=0.5, horizon=3.0).double().update(step, {})
    power = expm(3.0 * CHANGE.numpy())
    loaded = moment.numpy() + 1e-3 * np.diag(np.diag(moment.numpy()))
    growth = np.trace(np.linalg.inv(loaded) @ power @ loaded @ power.T) / 3.0
    ahead = power / growth**0.5
    gradient = np.concatenate([grads[f"{HEAD}.weight"].numpy(), grads[f"{HEAD}.bias"].numpy()[:, None]], 1)
    metric = np.linalg.inv(moment.numpy() + 0.5 * np.diag(np.diag(moment.numpy()))) * 1.5
    expected = -0.5 * gradient @ ahead.T @ metric @ ahead
    np.testing.assert_allclose(found[f"{HEAD}.weight"].detach(), expected[:, :2], rtol=1e-5)
    np.testing.assert_allclose(found[f"{HEAD}.bias"].detach(), expected[:, 2], rtol=1e-5)


def moved(rule: UpdateRule, presented: Tensor | None = None) -> Tensor:
    """What a step does to the logits of what was seen."""
    learner, batch = learner_of(rule, presented), system(presented=presented)
    before, after = learner.policy.initial(), learner.adapt([batch])
    return (learner.policy(after, batch.observation).logits - learner.policy(before, batch.observation).logits).detach()


def test_a_step_does_not_depend_on_how_sensors_are_wired_or_mixed() -> None:
    wired = torch.tensor([[0.0, -0.01], [5.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(moved(make(), wired), moved(make()), rtol=1e-6, atol=1e-6)
    nearly = {"rtol": 5e-3, "atol": 5e-3}  # small ridges, of the growth and of the dynamics, do not turn with a mixture
    torch.testing.assert_close(moved(make(ridge=1e-9), MIXED), moved(make(ridge=1e-9)), **nearly)
    assert float(moved(make(ridge=1e-9)).abs().max()) > 0.3
    assert float((moved(SGD(0.5), MIXED) - moved(SGD(0.5))).abs().max()) > 0.3


def test_without_a_horizon_it_is_the_wrapped_rule_and_with_one_it_still_goes_downhill() -> None:
    plain = Chain(WhitenedInputs(PARAMS, [HEAD], ridge=0.5), SGD(0.5))
    torch.testing.assert_close(moved(make(horizon=1e-9)), moved(plain), rtol=1e-6, atol=1e-6)
    assert float((moved(make()) - moved(plain)).abs().max()) > 0.05
    learner, batch = learner_of(make()), system()
    params = learner.policy.initial()
    slope = learner.look(params, batch).grads
    update, _ = learner.rule.update(learner.look(params, batch), learner.rule.init(params))
    assert float(tree_dot(slope, update).detach()) < -1e-3


def test_credit_goes_where_things_were_heading() -> None:
    # x grows by a tenth a step and y stays; both are as wide, and the advantages speak for both alike. A step that
    # looks ahead uses what will matter. Plain whitening takes both alike.
    change = torch.diag(torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64))
    grads = {f"{HEAD}.weight": torch.ones(2, 2).double(), f"{HEAD}.bias": torch.zeros(2).double()}
    step = Step(grads, PARAMS, torch.zeros(()), lambda: {HEAD: torch.eye(3).double()}, lambda _: change)
    update, _ = make(horizon=20.0).double().update(step, {})
    ratio = update[f"{HEAD}.weight"][:, 0] / update[f"{HEAD}.weight"][:, 1]
    torch.testing.assert_close(ratio, torch.full((2,), float(np.exp(4.0))).double(), rtol=1e-6, atol=0.0)


def test_what_doubles_at_every_step_stays_finite() -> None:
    params = {name: leaf.float() for name, leaf in PARAMS.items()}
    grads = {name: torch.ones_like(leaf) for name, leaf in params.items()}
    change = torch.diag(torch.tensor([1.0, 0.0, 0.0]))  # in 100 steps to 2.7e43
    step = Step(grads, params, torch.zeros(()), lambda: {HEAD: torch.eye(3)}, lambda _: change)
    update, _ = make(horizon=100.0).update(step, {})
    torch.testing.assert_close(update[f"{HEAD}.weight"], torch.tensor([[-1.5, 0.0], [-1.5, 0.0]]))


def test_the_horizon_is_learned_through_the_step() -> None:
    rule = make()
    learner, batch = learner_of(rule), system()

    def value() -> Tensor:
        params = learner.adapt([batch])
        return sum((leaf.square()).sum() for leaf in params.values())  # type: ignore[return-value]

    horizon = next(p for name, p in rule.named_parameters() if name.endswith("log_horizon"))
    (slope,) = torch.autograd.grad(value(), horizon)
    with torch.no_grad():
        horizon += 1e-5
        above = value()
        horizon -= 2e-5
        below = value()
    torch.testing.assert_close(slope, (above - below) / 2e-5, rtol=1e-5, atol=1e-8)
    assert abs(float(slope)) > 1e-3


def test_tasks_together_as_one_by_one() -> None:
    learner, batches = learner_of(make()), (system(), system(presented=MIXED))
    stacked = Batch(
        *(torch.stack(leaves) for leaves in zip(*(b._replace(distribution=b.reward) for b in batches), strict=True))
    )
    stacked = stacked._replace(distribution=Categorical(torch.stack([b.distribution.logits for b in batches])))
    together = torch.vmap(lambda one: learner.adapt([one]))(stacked)
    for task, batch in enumerate(batches):
        for name, leaf in learner.adapt([batch]).items():
            torch.testing.assert_close(together[name][task], leaf)


def test_what_cannot_be_foreseen_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a layer with weight and bias"):
        Foresight(SGD(0.1), PARAMS, "network.first")
    for horizon in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"expected a finite horizon above 0 steps, got {horizon}"):
            Foresight(SGD(0.1), PARAMS, HEAD, horizon=horizon)
    with pytest.raises(ValueError, match="FirstOrder after the prediction .* FirstOrder around the whole Foresight"):
        Foresight(Chain(FirstOrder(SGD(0.1))), PARAMS, HEAD)  # half of the horizon's gradient would be missing
    rule = Foresight(SGD(0.1), PARAMS, HEAD)
    with pytest.raises(ValueError, match="expected moments and dynamics of its inputs, got a step without them"):
        rule.update(Step(PARAMS, PARAMS, torch.zeros(())), {})


def test_layers_behind_the_first_foresee_what_they_read() -> None:
    policy = CategoricalPolicy(MLP(2, [3], 2, activation=lambda x: x, generator=seeded(2))).double()
    randomize(policy, 3, 0.5)
    learner, batch = Learner(policy, SGD(0.1), inner=lvc, outer=Clipped(0.2)), system()
    params = {name: 2.0 * leaf for name, leaf in policy.initial().items()}  # where a later step may be taken
    first, _ = affine_layers(params)
    found = learner.dynamics(params, batch, HEAD)
    # three linear features h = W x + b of two numbers: D_h (h, 1) must be W times what happens to x
    weight, bias = params[f"{first}.weight"], params[f"{first}.bias"]
    x = torch.randn(5, 2, generator=seeded(6), dtype=torch.float64)
    expected = torch.cat([x, torch.ones(5, 1).double()], -1) @ CHANGE[:2].mT @ weight.mT
    read = torch.cat([x @ weight.mT + bias, torch.ones(5, 1).double()], -1)
    torch.testing.assert_close(read @ found[:3].mT, expected, rtol=1e-3, atol=1e-3)
