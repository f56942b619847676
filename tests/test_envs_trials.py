"""Trials against a plain loop over the wrapped family from the same initial states."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from envs import BernoulliBandit, CartPole, Family, MountainCar, Navigation, PointMass, Range, Transition
from envs.adapters import GymnasiumFamily
from envs.parameters import Parameter
from envs.wrappers import Delayed, NoisySensors, ScaledReward, Trials
from metarl.testing import check_family

TASKS, ROWS = 3, 2
Rows = dict[str, Tensor]

# Falls after some 10 steps or reaches its limit of 12; ends at the goal; pays and moves on; never ends early.
FAMILIES: dict[str, Callable[[], Family]] = {
    "cartpole": lambda: CartPole(12, gravity=Range(5, 15), force_magnitude=Range(10, 30)),
    "navigation": lambda: Navigation(15, goal_x=Range(-0.2, 0.2), goal_y=Range(-0.1, 0.1), box=0.1),
    "bandit": lambda: BernoulliBandit(3, horizon=2),
    "point-mass": lambda: PointMass(7, friction=Range(0.1, 1)),
    "wrapped": lambda: NoisySensors(Delayed(MountainCar(9, force=Range(0.001, 0.002)), delay=1.0), noise_0=0.1),
    "trials": lambda: Trials(CartPole(4, gravity=Range(5, 15)), 2),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(family: Family, tasks: int = TASKS) -> Rows:
    return {name: values.double()[:, None] for name, values in family.sample(tasks, generator=seeded()).items()}


def actions_for(family: Family, steps: int) -> Tensor:
    space: Any = family.action_space
    if isinstance(space, Discrete):
        return torch.randint(int(space.n), (steps, TASKS, ROWS), generator=seeded(9))
    return 2 * torch.randn((steps, TASKS, ROWS, *space.shape), generator=seeded(9), dtype=torch.float64)


def told(family: Family, action: Tensor | None, reward: float, done: bool) -> list[float]:
    """What follows the wrapped family's observation, in plain numbers."""
    space: Any = family.action_space
    if isinstance(space, Discrete):
        shown = [float(action is not None and int(action) == a) for a in range(int(space.n))]
    else:
        shown = [0.0] * space.shape[0] if action is None else action.tolist()
    return [*shown, reward, float(done)]


def loop(inner: Family, task: Rows, starts: list[Rows], actions: Tensor) -> list[tuple[list[float], float, int]]:
    """A trial of one row, as a program that resets by hand: observations, rewards and episode numbers."""
    steps, lived, action = iter(actions), [], None
    reward, done = 0.0, False
    for number, start in enumerate(starts):
        state = start
        for age in itertools.count(1):
            seen = [*inner.observe(task, state).tolist(), *told(inner, action, reward, done)]
            action = next(steps)
            state, paid, terminated = inner.step(task, state, action)
            reward, done = float(paid), bool(terminated) or age == inner.horizon
            lived.append((seen, reward, number))
            if done:
                break
    return lived


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("episodes", [1, 3])
def test_a_trial_is_a_loop_of_episodes(name: str, episodes: int) -> None:
    inner = FAMILIES[name]()
    family = Trials(inner, episodes)
    task, actions = drawn(family), actions_for(inner, family.horizon)
    state = family.reset(task, (TASKS, ROWS), generator=seeded(1))
    generator, rows = seeded(1), (TASKS, ROWS)
    starts = [inner.reset(task, rows, generator=generator) for _ in range(episodes)]
    met = []
    for action in actions:
        seen, number = family.observe(task, state), family.episode(state)
        state, reward, terminated = family.step(task, state, action)
        assert all(values.shape == rows for values in state.values())
        met.append((seen, reward, number, terminated))
    lengths = set()
    for t, n in itertools.product(range(TASKS), range(ROWS)):
        own = {constant: values[t, 0] for constant, values in task.items()}
        first = [{key: values[t, n] for key, values in start.items()} for start in starts]
        lived = loop(inner, own, first, actions[:, t, n])
        lengths.add(len(lived))
        for step, (seen, reward, number) in enumerate(lived):
            expected = torch.tensor(seen, dtype=torch.float64)
            torch.testing.assert_close(met[step][0][t, n], expected, rtol=1e-12, atol=1e-12)
            assert met[step][1][t, n].item() == pytest.approx(reward, rel=1e-12, abs=1e-12)
            assert int(met[step][2][t, n]) == number
            assert bool(met[step][3][t, n]) == (step == len(lived) - 1)
    if name in {"cartpole", "navigation"}:  # some episodes ended by themselves, or the test would show little
        assert min(lengths) < family.horizon


@pytest.mark.parametrize(("name", "episodes"), [("cartpole", 1), *((name, 3) for name in FAMILIES)])
def test_it_is_a_family(name: str, episodes: int) -> None:
    assert check_family(Trials(FAMILIES[name](), episodes)) == []


def test_it_is_wrapped_like_others_and_by_others() -> None:
    inner = FAMILIES["cartpole"]()
    for family in (ScaledReward(Trials(inner, 2), Range(0.5, 2)), Delayed(Trials(inner, 2), delay=1.0)):
        assert check_family(family) == []


def test_spaces_horizon_and_description() -> None:
    pole = Trials(CartPole(12, gravity=Range(5, 15)), 3)
    assert pole.horizon == 36 and pole.episodes == 3 and pole.action_space == Discrete(2)
    assert pole.observation_space.shape == (4 + 2 + 1 + 1,) and pole.observation_space.dtype == np.float32
    assert pole.observation_space.low[4:].tolist() == [0, 0, -np.inf, 0]
    assert pole.observation_space.high[4:].tolist() == [1, 1, np.inf, 1]
    point = Trials(Navigation(5), 2)
    assert point.observation_space.shape == (2 + 2 + 1 + 1,) and point.observation_space.low[2] == -np.inf
    assert list(pole.parameters) == list(CartPole.parameters)
    assert pole.describe() != Trials(CartPole(12, gravity=Range(5, 15)), 2).describe()
    assert pole.describe()["horizon"] == 36 and pole.describe()["wrapped"]["horizon"] == 12


class Cliff(Family):
    """Ends with the second step, is broken beyond it, and calls its state as the wrapper calls its own."""

    parameters = {"height": Parameter(1.0, 0.0, 2.0, "m", "what a step pays")}
    observation_space = Box(-np.inf, np.inf, (2,), dtype=np.float32)
    action_space = Discrete(2)

    def __init__(self) -> None:
        super().__init__(10, {})

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Rows:
        start = torch.rand(rows, generator=generator)
        return {"episode": start, "clock": torch.zeros(rows), "now.episode": start + 5, "first_1.clock": start + 6}

    def observe(self, task: Any, state: Rows) -> Tensor:
        return torch.stack((state["episode"], state["clock"]), -1)

    def step(self, task: Any, state: Rows, action: Tensor) -> Transition:
        assert set(task) == {"height"} and set(state) == {"episode", "clock", "now.episode", "first_1.clock"}
        age = (state["clock"] + 1).masked_fill(state["clock"] >= 2, torch.nan)
        return Transition({**state, "clock": age}, task["height"] + 0 * age, age == 2)


def test_names_cannot_clash_and_what_lies_beyond_an_end_does_not_leak() -> None:
    family = Trials(Cliff(), 3)
    task = {name: values[:, None] for name, values in family.sample(2, generator=seeded()).items()}
    state = family.reset(task, (2, 4), generator=seeded(3))
    generator = seeded(3)
    starts = [Cliff().reset({}, (2, 4), generator=generator)["episode"] for _ in range(3)]
    for step in range(6):
        seen = family.observe(task, state)
        assert torch.equal(seen[..., 0], starts[step // 2]) and seen[..., 1].unique().tolist() == [step % 2]
        assert family.episode(state).unique().tolist() == [step // 2]
        state, reward, terminated = family.step(task, state, torch.ones(2, 4))
        assert reward.unique().tolist() == [1.0] and terminated.unique().tolist() == [step == 5]
    assert family.episode(state).unique().tolist() == [3]
    assert family.references(task) == {}  # the wrapped family has none


@pytest.mark.parametrize("name", ["cartpole", "navigation", "trials"])
def test_single_rows_and_vmap_give_what_rows_give(name: str) -> None:
    family = Trials(FAMILIES[name](), 3)
    task, actions = drawn(family), actions_for(family, 20)
    state = family.reset(task, (TASKS, ROWS), generator=seeded(2))
    flat = {constant: values[:, 0] for constant, values in task.items()}
    lifted = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))
    for action in actions:
        moved, again = family.step(task, state, action), lifted(flat, state, action)
        for key, values in moved.state.items():
            torch.testing.assert_close(again[0][key], values, rtol=1e-12, atol=1e-12)
        for t, n in itertools.product(range(TASKS), range(ROWS)):
            single = {key: values[t, n] for key, values in state.items()}
            alone = family.step({constant: values[t] for constant, values in flat.items()}, single, action[t, n])
            for key, values in alone.state.items():
                torch.testing.assert_close(values, moved.state[key][t, n], rtol=1e-12, atol=1e-12)
        state = moved.state


def test_no_input_is_written_to_and_nothing_breaks_compiling() -> None:
    family = Trials(FAMILIES["navigation"](), 3)
    task, actions = drawn(family), actions_for(family, 3)
    torch.compiler.reset()
    compiled = torch.compile(family.step, fullgraph=True, backend="aot_eager")
    state = family.reset(task, (TASKS, ROWS), generator=seeded(2))
    for action in actions:
        kept = {name: values.clone() for name, values in {**task, **state}.items()}
        moved, again = family.step(task, state, action), compiled(task, state, action)
        assert all(torch.equal(kept[name], values) for name, values in {**task, **state}.items())
        assert all(torch.equal(values, again[0][name]) for name, values in moved.state.items())
        state = moved.state


def test_references_are_those_of_all_episodes() -> None:
    inner = Navigation(15, box=0.1)
    family = Trials(inner, 3)
    task = {name: values[:, None] for name, values in family.sample(40, generator=seeded()).items()}
    references, bound = family.references(task), family.horizon
    assert references["ceiling"].shape == (40, 1)

    def play(act: Callable[[Tensor], Tensor]) -> Tensor:
        """Return of a whole trial under a policy that knows the task."""
        state = family.reset(task, (40, 1), generator=seeded())
        total, over = torch.zeros(40, 1), torch.zeros(40, 1, dtype=torch.bool)
        for _ in range(bound):
            action = act(family.observe(task, state))
            state, reward, terminated = family.step(task, state, action)
            total, over = total + reward.masked_fill(over, 0.0), over | terminated
        assert bool(over.all())
        return total

    goal = torch.stack((task["goal_x"], task["goal_y"]), -1)
    best, still = play(lambda seen: (goal - seen[..., :2]) * 10), play(lambda seen: torch.zeros(40, 1, 2))
    torch.testing.assert_close(best, references["ceiling"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(still, references["floor"], rtol=1e-4, atol=1e-4)


def pole() -> Family:
    return GymnasiumFamily("CartPole-v1", {"gravity": Range(5, 15)}, horizon=9)


class Blob(Cliff):
    """Sees pictures."""

    observation_space = Box(0.0, 1.0, (2, 2), dtype=np.float32)


class Grid(Cliff):
    """Acts on grids."""

    action_space = Box(0.0, 1.0, (2, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Trials("CartPole"), TypeError, "expected a family to wrap, got 'CartPole'"),  # type: ignore[arg-type]
        (lambda: Trials(CartPole(), 0), ValueError, "episodes of Trials: expected at least 1, got 0"),
        (lambda: Trials(CartPole(), 1.5), TypeError, "episodes of Trials: expected an integer, got 1.5"),  # type: ignore[arg-type]
        (lambda: Trials(CartPole(), True), TypeError, "episodes of Trials: expected an integer, got True"),
        (lambda: Trials(pole()), TypeError, "reset several times in advance, got GymnasiumFamily, which is live"),
        (lambda: Trials(Delayed(pole())), TypeError, "reset several times in advance, got Delayed, which is live"),
        (lambda: Trials(Blob()), TypeError, "observations from a flat Box"),
        (lambda: Trials(Grid()), TypeError, "Discrete or a flat Box"),
    ],
)
def test_what_cannot_be_joined_is_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
