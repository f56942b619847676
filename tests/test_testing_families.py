"""The contract of families: all our benchmarks satisfy it, and each fault is found in a family that has it."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from torch import Tensor

from envs import BENCHMARKS, CartPole, Family, Parameter, Range, ScaledReward, Transition
from metarl.testing import check_family
from metarl.testing.episodes import actions
from metarl.testing.families import look_over_family

OTHERS = {
    "tabular with feedback": ("tabular-random", {"observation": "feedback"}),
    "bandit with feedback": ("bandit-5", {"observation": "feedback", "horizon": 10}),
    "sparse half-circle, dense": ("navigation-halfcircle", {"reward": "distance"}),
    "flawed corners": ("navigation-corners", {"reward": "progress"}),
    "raw actions": ("navigation-fixed", {"action": "raw"}),
    "one step": ("cartpole-wide", {"horizon": 1}),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_families_of_ours_keep_the_contract(name: str) -> None:
    assert check_family(BENCHMARKS[name]().family) == []


@pytest.mark.parametrize("case", OTHERS)
def test_their_variants_keep_it_too(case: str) -> None:
    name, settings = OTHERS[case]
    assert check_family(BENCHMARKS[name](**settings).family) == []


class Sled:
    """A sled of hidden mass, pushed towards a hidden goal; nothing of ``envs`` is in it."""

    horizon: Any = 12
    observation_space: Any = Box(-np.inf, np.inf, (2,), dtype=np.float32)
    action_space: Any = Box(-1.0, 1.0, (1,), dtype=np.float32)

    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        mass, goal = torch.rand((2, tasks), generator=generator)
        return {"mass": 1 + mass, "goal": goal}

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        x = 0.1 * torch.rand(rows, generator=generator).to(task["mass"])
        return {"x": x, "v": torch.zeros_like(x)}

    def observe(self, task: Any, state: Any) -> Tensor:
        return torch.stack((state["x"], state["v"]), -1)

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        v = state["v"] + 0.1 * action.squeeze(-1).clamp(-1, 1) / task["mass"]
        x = state["x"] + v
        return {"x": x, "v": v}, -(x - task["goal"]).abs(), x.abs() > 2


def test_a_sound_family_has_nothing_said_about_it() -> None:
    assert check_family(Sled()) == []


class Spaceless(Family):
    """Walks on a line to a hidden goal; whoever makes a family of it adds the spaces."""

    parameters = {"goal": Parameter(0.0, -1.0, 1.0, "1", "where to go")}

    def __init__(self) -> None:
        super().__init__(5, {"goal": Range(-1.0, 1.0)})

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.rand(rows, generator=generator).to(task["goal"])}

    def observe(self, task: Any, state: Any) -> Tensor:
        return state["x"].unsqueeze(-1)

    def step(self, task: Any, state: Any, action: Tensor) -> Transition:
        x = state["x"] + action.squeeze(-1)
        return Transition({"x": x}, -(x - task["goal"]).abs(), torch.zeros_like(x, dtype=torch.bool))


def test_a_family_of_ours_that_forgets_a_space_is_told_so() -> None:
    spaces = {"observation_space": Box(-np.inf, np.inf, (1,), np.float32), "action_space": Sled.action_space}
    for forgotten in spaces:
        others = {name: space for name, space in spaces.items() if name != forgotten}
        family = type("Forgetful", (Spaceless,), others)()
        assert [line.rpartition("missing: ")[2] for line in check_family(family)] == [forgotten]
        with pytest.raises(AttributeError, match=f"'Forgetful' object has no attribute '{forgotten}'"):
            ScaledReward(family)
    assert check_family(type("Whole", (Spaceless,), spaces)()) == []


class NaNAtAnEnd(Spaceless):
    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Sled.action_space

    def step(self, task: Any, state: Any, action: Tensor) -> Transition:
        after, reward, terminated = super().step(task, state, action)
        return Transition(after, torch.where(task["goal"] == 1.0, torch.nan, reward), terminated)


def sampled(change: Callable[..., dict[str, Tensor]]) -> Any:
    """The sled with other tasks."""
    return type("Sampled", (Sled,), {"sample": lambda self, tasks, *, generator: change(
        Sled.sample(self, tasks, generator=generator), generator)})()  # fmt: skip


def stepped(change: Callable[..., Any]) -> Any:
    """The sled with another step: ``change(state, task, *transition)`` gives the transition."""
    return type("Stepped", (Sled,), {"step": lambda self, task, state, action: change(
        state, task, *Sled.step(self, task, state, action))})()  # fmt: skip


def beginning(seeded: Callable[[torch.Generator], torch.Generator]) -> Any:
    """The sled that begins by ``seeded(generator)`` in the place of the generator it is given."""
    return having(
        reset=lambda self, task, rows, *, generator: Sled.reset(self, task, rows, generator=seeded(generator))
    )


def having(**members: Any) -> Any:
    """The sled with other members."""
    return type("Having", (Sled,), members)()


class Clock(Sled):
    """Counts its steps in the state."""

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        state = super().reset(task, rows, generator=generator)
        return {**state, "time": torch.zeros_like(state["x"])}

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step(task, state, action)
        return {**after, "time": state["time"] + 1}, reward, terminated


class NaNAtSeven(Clock):
    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step(task, state, action)
        return after, torch.where((state["time"] == 7) & (task["mass"] > 1.9), torch.nan, reward), terminated


class InfiniteAtFour(Clock):
    def observe(self, task: Any, state: Any) -> Tensor:
        x = torch.where(state["time"] == 4, torch.inf, state["x"])
        return torch.stack((x, state["v"]), -1)


class InfiniteAtLast(Clock):
    """After the last step there is one more observation, from which a cut-off episode is bootstrapped."""

    def observe(self, task: Any, state: Any) -> Tensor:
        return torch.where((state["time"] == self.horizon).unsqueeze(-1), torch.inf, super().observe(task, state))


class HiddenNaN(Clock):
    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step(task, state, action)
        return {**after, "time": torch.where(after["time"] > 3, torch.nan, after["time"])}, reward, terminated


class DeadNaN(Clock):
    """What happens after an episode's end is nobody's business."""

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step(task, state, action)
        return after, torch.where(state["time"] >= 5, torch.nan, reward), after["time"] >= 5


class StaleSample(Sled):
    """The trap of cached products: a mass that is divided by when tasks are drawn, and never again."""

    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        task = super().sample(tasks, generator=generator)
        self.gain = (1 / task["mass"]).unsqueeze(-1)
        return task

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        return super().step({**task, "mass": 1 / self.gain}, state, action)


class StaleInit(Sled):
    """Here it is divided by when the family is made."""

    gain = 0.7

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        return super().step({**task, "mass": torch.tensor(1 / self.gain)}, state, action)


class StaleReset(Sled):
    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        self.mass = task["mass"].clone()
        return super().reset(task, rows, generator=generator)

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        return super().step({**task, "mass": self.mass}, state, action)


class GoalOnReset(Sled):
    """The goal is drawn anew for every episode and kept on the family."""

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        self.goal = torch.rand(rows, generator=generator)
        return super().reset(task, rows, generator=generator)

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        return super().step({**task, "goal": self.goal}, state, action)


class GoalInState(Sled):
    """The goal is drawn anew for every episode and kept in the state."""

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        return super().reset(task, rows, generator=generator) | {"goal": torch.rand(rows, generator=generator)}

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step({**task, "goal": state["goal"]}, state, action)
        return {**after, "goal": state["goal"]}, reward, terminated


class GoalInTask(Sled):
    """The goal is drawn anew for every episode and written over the task's."""

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        task["goal"].copy_(torch.rand(task["goal"].shape, generator=generator))
        return super().reset(task, rows, generator=generator)


class CopiedConstant(Sled):
    """The mass is carried in the state and used for nothing."""

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        return super().reset(task, rows, generator=generator) | {"mass": task["mass"].expand(rows).clone()}

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step({**task, "mass": torch.tensor(1.5)}, state, action)
        return {**after, "mass": state["mass"]}, reward, terminated


class Counting(Sled):
    count = 0

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        self.count += 1
        after, reward, terminated = super().step(task, state, action)
        return after, reward + self.count, terminated


class OwnLuck(Sled):
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        return super().reset(task, rows, generator=self.generator)


class SeededSampling(Sled):
    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        return super().sample(tasks, generator=torch.Generator().manual_seed(1337))


class WritesState(Sled):
    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step(task, state, action)
        state["x"].copy_(after["x"])
        return {"x": state["x"], "v": after["v"]}, reward, terminated


class WritesAction(Sled):
    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        return super().step(task, state, action.clamp_(-1, 1))


class WritesWhileLooking(Sled):
    def observe(self, task: Any, state: Any) -> Tensor:
        state["v"] = state["v"].clamp(-0.3, 0.3)
        return super().observe(task, state)


class FirstTaskStarts(Sled):
    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        state = super().reset(task, rows, generator=generator)
        return {"x": state["x"] + task["goal"].mean(), "v": state["v"]}


class OnTheCPU(Sled):
    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step(task, state, action)
        return after, reward + torch.zeros(reward.shape), terminated


class StaysBehind(Sled):
    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.rand(rows, generator=generator), "v": torch.zeros(rows)}


class Branches(Sled):
    """Looks at values, which is slow on a GPU but right."""

    def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
        after, reward, terminated = super().step(task, state, action)
        if bool((after["x"] > 1).any()):
            reward = torch.where(after["x"] > 1, reward - 1, reward)
        return after, reward, terminated


class Stray(CartPole.__mro__[1]):  # type: ignore[misc, name-defined]  # CartPole is a leaf, and Family what it is made of
    """An ``envs`` family whose sample leaves the declared range."""

    parameters = CartPole.parameters

    def __init__(self, mass: float) -> None:
        super().__init__(10, {"pole_mass": Range(0.1, 0.5)})
        self.inner, self.mass = CartPole(10, pole_mass=Range(0.1, 0.5)), mass
        self.observe, self.step = self.inner.observe, self.inner.step

    observation_space = property(lambda self: self.inner.observation_space)
    action_space = property(lambda self: self.inner.action_space)

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Any:
        return self.inner.reset(task, rows, generator=generator)

    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        task = super().sample(tasks, generator=generator)
        return {**task, "pole_mass": task["pole_mass"] * self.mass}

    def observe(self, task: Any, state: Any) -> Tensor: ...

    def step(self, task: Any, state: Any, action: Tensor) -> Any: ...


def drawing(method: str, draw: Callable[[], Any]) -> Any:
    """The sled, with a draw from global random numbers in one method."""

    def member(self: Any, *given: Any, **more: Any) -> Any:
        draw()
        return getattr(Sled, method)(self, *given, **more)

    return having(**{method: member})


def box(low: float, high: float, shape: tuple[int, ...] = (2,), dtype: Any = np.float32) -> Box:
    return Box(low, high, shape, dtype=dtype)


LENGTHS = itertools.count(1)

FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    # spaces and time limit
    "no step": (lambda: object(), "missing: observation_space, .*step"),
    "dict observations": (lambda: having(observation_space=Dict(x=box(0, 1))), "observation_space must be a one-"),
    "pictures": (lambda: having(observation_space=box(0, 1, (4, 4))), "observation_space must be a one-dimensional"),
    "double space": (lambda: having(observation_space=box(-9, 9, dtype=np.float64)), "observation_space .* float32"),
    "several choices": (lambda: having(action_space=MultiDiscrete([2, 2])), "action_space must be Discrete"),
    "actions from 1": (lambda: having(action_space=Discrete(3, start=1)), "at least 2 actions and start at 0"),
    "one action": (lambda: having(action_space=Discrete(1)), "at least 2 actions"),
    "whole numbers": (lambda: having(action_space=box(0, 5, (1,), np.int64)), "floating-point"),
    "other spaces": (lambda: having(action_space=property(lambda self: box(-1, next(LENGTHS), (1,)))), "spaces change"),
    "horizon 0": (lambda: having(horizon=0), "horizon must be an int of at least 1"),
    "horizon 1e2": (lambda: having(horizon=1e2), "horizon must be an int .*got 100.0"),
    "horizon True": (lambda: having(horizon=True), "horizon must be an int"),
    # tasks
    "no constants": (lambda: sampled(lambda task, g: {}), "sample must return a mapping"),
    "numbers": (lambda: sampled(lambda task, g: {"mass": 1.0}), "sample must return a mapping"),
    "columns": (lambda: sampled(lambda t, g: {k: v[:, None] for k, v in t.items()}), r"mass as \(1,\), torch.float32"),
    "double constants": (lambda: sampled(lambda t, g: {k: v.double() for k, v in t.items()}), "got .*float64"),
    "infinite": (lambda: sampled(lambda t, g: {**t, "mass": t["mass"] / 0}), "values of mass that are not finite"),
    "equal tasks": (lambda: sampled(lambda t, g: {k: 0 * v + 1 for k, v in t.items()}), "nothing to adapt to"),
    "seeded": (SeededSampling, "sample returns the same tasks for different generators"),
    "unseeded": (lambda: sampled(lambda t, g: {**t, "mass": t["mass"] + torch.rand(())}), "returns different tasks"),
    "out of range": (lambda: Stray(2.0), "outside the family's own ranges, such as task .*pole_mass=0"),
    "invalid": (lambda: Stray(-1.0), "own validate rejects: pole_mass: expected within"),
    # shapes and dtypes
    "state of rows": (lambda: having(reset=lambda self, task, rows, generator: [0.0]), "reset must return a dict of"),
    "state for one": (
        lambda: having(reset=lambda self, task, rows, generator: {"x": torch.zeros(rows[:1]), "v": torch.zeros(rows)}),
        r"the state's x must be \(16, 8\); got \(16,\), torch.float32$",
    ),
    "state of vectors": (
        lambda: having(reset=lambda self, task, rows, generator: {"x": torch.zeros(*rows, 3), "v": torch.zeros(rows)}),
        r"the state's x must be \(16, 8\); got \(16, 8, 3\), torch.float32; store each of its numbers under its own",
    ),
    "observation": (lambda: having(observe=lambda self, t, s: torch.stack((s["x"], s["v"]))), "observe must be"),
    "double observation": (
        lambda: having(observe=lambda self, t, s: Sled.observe(self, t, s).double()),
        "observe must be .*float32; got .*float64",
    ),
    "reward": (lambda: stepped(lambda s, t, a, r, d: (a, r.mean(), d)), r"reward of a step must be \(16, 8\)"),
    "double reward": (lambda: stepped(lambda s, t, a, r, d: (a, r.double(), d)), "reward of a step must be .*float32"),
    "mask of numbers": (lambda: stepped(lambda s, t, a, r, d: (a, r, d.float())), "terminated must be .*torch.bool"),
    "mask of tasks": (lambda: stepped(lambda s, t, a, r, d: (a, r, d.any(-1))), r"terminated must be \(16, 8\)"),
    "a bool": (lambda: stepped(lambda s, t, a, r, d: (a, r, False)), "terminated must be .*; got bool"),
    "five values": (
        lambda: stepped(lambda s, t, a, r, d: (a, r, d, d, {})),
        r"step must return .*; got \(dict, Tensor, Tensor, Tensor, dict\); leave out Gymnasium's truncated and info$",
    ),
    "another state": (lambda: stepped(lambda s, t, a, r, d: ({"x": a["x"]}, r, d)), "changes the names of the state"),
    "other dtypes": (
        lambda: stepped(lambda s, t, a, r, d: ({**a, "v": a["v"].double()}, r, d)),
        "changes the state's v from .*float32 to .*float64",
    ),
    "rows only": (
        lambda: having(observe=lambda self, t, s: Sled.observe(self, t, s).reshape(-1, s["x"].shape[-1], 2)),
        "for a single environment|A single environment",
    ),
    # repeating
    "stale from sampling": (StaleSample, "other tasks were sampled.*stores.*changed attributes of the family: gain"),
    "stale from resetting": (StaleReset, "other tasks were sampled.*stores.*changed attributes of the family: mass"),
    "stale from making": (StaleInit, "mass has no effect: in .* episodes"),
    "goal on reset": (GoalOnReset, "the family stores .*changed attributes of the family: goal"),
    "goal in state": (GoalInState, "goal has no effect: in .* episodes"),
    "goal in task": (GoalInTask, r"reset modified its argument task in place \(goal\)"),
    "counter": (Counting, "repeating a step gives a different result.*changed attributes of the family: count"),
    "own luck": (OwnLuck, "reset returns different initial states for equal generators"),
    "seeds itself": (lambda: beginning(lambda g: g.manual_seed(0)), "reset reseeds the given generator"),
    "deaf": (lambda: beginning(lambda g: torch.Generator().manual_seed(0)), "the same initial states for different"),
    # constants
    "unused": (lambda: sampled(lambda t, g: {**t, "wind": torch.rand(t["mass"].shape, generator=g)}), "wind has no"),
    "only carried": (CopiedConstant, "mass has no effect"),
    # rows
    "mean over rows": (
        lambda: stepped(lambda s, t, a, r, d: (a, r - r.mean(), d)),
        "steps differently alone .* in the reward at step 0",
    ),
    "one ends all": (
        lambda: stepped(lambda s, t, a, r, d: (a, r, (a["x"].abs() > 0.5).any().expand(d.shape))),
        "steps differently alone .* in terminated",
    ),
    "starts mixed": (FirstTaskStarts, "initial states of a task change with the constants of other tasks"),
    # writing
    "state in place": (WritesState, r"step modified its argument state in place \(x\)"),
    "action in place": (WritesAction, "step modified its argument action in place"),
    "looking in place": (WritesWhileLooking, r"observe modified its argument state in place \(v\)"),
    # values
    "NaN at step 7": (NaNAtSeven, r"the reward is not finite at step 7, first in task \d+ \(mass=1\.9"),
    "infinite at step 4": (InfiniteAtFour, "the observation is not finite at step 4"),
    "infinite at last": (InfiniteAtLast, "the observation is not finite at step 12"),
    "hidden NaN": (HiddenNaN, "the state's time is NaN at step 4"),
    "outside": (lambda: having(observation_space=box(-0.5, 0.5)), "observation lies outside observation_space at step"),
    "mask upside down": (lambda: stepped(lambda s, t, a, r, d: (a, r, ~d)), "every episode ends at its first step"),
    "NaN at an end": (NaNAtAnEnd, r"the reward is not finite at step 0, first in task 1 \(goal=1\)"),
    "references": (lambda: having(references=lambda self, t: {"floor": t["goal"].sum()}), r"'floor' must be \(16,\)"),
    "upside down": (
        lambda: having(references=lambda self, t: {"floor": t["goal"] + 1.0, "ceiling": t["goal"]}),
        "reference 'floor' is above 'ceiling'",
    ),
    "endless": (lambda: having(references=lambda self, t: {"floor": t["goal"] / 0}), "reference 'floor' is not finite"),
    # devices
    "CPU in a step": (OnTheCPU, "on a GPU the family would raise RuntimeError: Tensor on device cpu"),
    "CPU in a reset": (StaysBehind, "on a GPU"),
    # it raises
    "raises": (lambda: having(step=lambda self, *given: 1 / 0), "Shapes and dtypes: the family raised ZeroDiv"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_in_words(fault: str) -> None:
    make, expected = FAULTS[fault]
    told = check_family(make())
    assert any(re.search(expected, line) for line in told), told
    assert len(told) <= 3, "one fault should not be buried under its consequences"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_look_over_tells_one_of_what_is_found(fault: str) -> None:
    make, expected = FAULTS[fault]
    told = look_over_family(make())
    assert len(told) <= 1 and set(told) <= set(check_family(make()))
    early = list(FAULTS).index(fault) < list(FAULTS).index("no constants")
    assert told or not early and "shape" not in expected.lower(), "spaces, time limit and shapes are always looked at"


def test_a_look_over_takes_no_whole_episode() -> None:
    class Counted(Sled):
        horizon, steps = 1000, 0

        def step(self, task: Any, state: Any, action: Tensor) -> tuple[Any, ...]:
            Counted.steps += 1
            return super().step(task, state, action)

    assert look_over_family(Counted()) == [] and 0 < Counted.steps < 100
    Counted.steps = 0
    assert look_over_family(type("Live", (Counted,), {"live": True})()) == [] and Counted.steps == 0


GLOBAL_DRAWS = {"torch": lambda: torch.rand(()), "numpy": lambda: np.random.rand(), "Python": lambda: random.random()}


@pytest.mark.parametrize("library", GLOBAL_DRAWS)
@pytest.mark.parametrize("method", ["sample", "reset", "observe", "step"])
def test_global_random_numbers_are_told_with_who_draws_them(method: str, library: str) -> None:
    told = check_family(drawing(method, GLOBAL_DRAWS[library]))
    assert len(told) == 1 and re.search(f"^{method} draws from {library}'s global random generator", told[0]), told


@pytest.mark.parametrize(("low", "high"), [(5.0, np.inf), (-np.inf, -5.0), (-np.inf, np.inf), (3.0, 5.0)])
def test_actions_are_mostly_within_the_bounds_that_there_are_and_a_little_beyond(low: float, high: float) -> None:
    drawn = actions(Box(low, high, (1,), dtype=np.float32), 20, (50, 9), 0)
    inside = ((drawn >= low) & (drawn <= high)).double().mean()
    assert float(inside) == pytest.approx(1.0 - np.isfinite([low, high]).sum() / 6, abs=0.05)
    assert float(drawn.max() - drawn.min()) == pytest.approx(3.0, abs=0.01)


def test_what_may_be_done_is_not_told() -> None:
    assert check_family(DeadNaN()) == [] == check_family(Branches()) == check_family(Clock())
    assert check_family(having(horizon=np.int64(5))) == []


def test_checking_leaves_no_trace() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    family = CartPole(20, pole_mass=Range(0.1, 0.5))
    kept = dict(vars(family))
    assert check_family(family) == [] and vars(family) == kept and isinstance(family, Family)
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    assert before[1] == np.random.get_state()[1].tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", BENCHMARKS)
def test_families_keep_it_on_a_gpu(name: str) -> None:
    assert check_family(BENCHMARKS[name](horizon=5).family) == []
