"""Checks of the contract of `metarl.types.TaskFamily`, with messages that explain each violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from metarl import checks
from metarl.rollouts import per_row
from metarl.testing.episodes import EPISODES, LONGEST, TASKS, Moment, Watched, actions, generator, same, walk
from metarl.types import State, Task, TaskFamily

MEMBERS = ("observation_space", "action_space", "horizon", "sample", "reset", "observe", "step")
LOOKED_AT = 20  # number of steps of an episode that are repeated
ATTEMPTS = 32  # sets of episodes to play until a constant has an effect
Check = Callable[[Watched], Iterator[str]]


def check_family(family: TaskFamily) -> list[str]:
    """Return descriptions of everything that is wrong with a family of environments; empty if nothing was found.

    Args:
        family: anything with the members of `metarl.types.TaskFamily`. If it also has ``contains``, ``validate`` or
            ``references``, as the families of ``envs`` do, these are checked, too.

    Checked are:

    - spaces and time limit;
    - shapes, dtypes and ranges of tasks, states, observations, rewards and terminations;
    - reproducibility: equal generators give equal episodes, and the family keeps nothing between calls;
    - independence of rows: environments behave the same alone as in a batch;
    - constants: each one that differs between tasks affects observations, rewards or terminations;
    - no call modifies its arguments or uses global random numbers;
    - finite values throughout an episode (messages name the step, counted from 0);
    - tensors are on the device of the tasks.

    A family with a true attribute ``live`` holds its episodes in external environments, as Gymnasium's do. It is only
    played from start to end: single steps are not repeated, and rows are not stepped separately.

    Equations that are consistently wrong cannot be detected, nor anything that does not occur with random actions in
    episodes of at most 1000 steps.
    """
    return _look(family, STAGES)


def look_over_family(family: TaskFamily) -> list[str]:
    """Return the first finding of those checks of `check_family` that need no whole episode; mostly well under 1 s.

    Args:
        family: as for `check_family`. For a live family only spaces, time limit and tasks are checked.
    """
    stages = STAGES[: STAGES.index((_sampling,)) + 1] if getattr(family, "live", False) else STAGES[:-1]
    return _look(family, stages)[:1]


def _look(family: TaskFamily, stages: tuple[tuple[Check, ...], ...]) -> list[str]:
    """Run the checks of these stages until one stage finds something, and return all findings."""
    watched = Watched(family)
    found: list[str] = []
    for stage in stages:
        for check in stage:
            try:
                found.extend(check(watched))
            except Exception as error:
                if not found:  # otherwise the error is most likely a consequence of the earlier finding
                    what = (check.__doc__ or "").rstrip(".")
                    found.append(f"{what}: the family raised {checks.raised(error)}")
        if found:  # later stages rely on this one
            break
    return found + list(watched.found)


def _spaces(watched: Watched) -> Iterator[str]:
    """Members and spaces."""
    missing = [name for name in MEMBERS if not hasattr(watched.family, name)]
    if missing:
        yield f"a family must have the members {', '.join(MEMBERS)}; missing: {', '.join(missing)}"
        return
    observations, moves = watched.family.observation_space, watched.family.action_space
    if not isinstance(observations, Box) or len(observations.shape) != 1 or observations.dtype != np.float32:
        yield f"observation_space must be a one-dimensional Box of dtype float32, as policies need; got {observations}"
    if isinstance(moves, Discrete):
        if moves.n < 2 or moves.start != 0:
            yield f"a Discrete action_space must have at least 2 actions and start at 0; got {moves}"
    elif not isinstance(moves, Box) or len(moves.shape) != 1 or not np.issubdtype(moves.dtype, np.floating):
        yield f"action_space must be Discrete or a one-dimensional Box of floating-point numbers; got {moves}"
    if observations != watched.family.observation_space or moves != watched.family.action_space:
        yield "the spaces change from one access to the next; they must be the same for every task"


def _horizon(watched: Watched) -> Iterator[str]:
    """Time limit."""
    horizon: Any = watched.family.horizon
    if isinstance(horizon, bool) or not isinstance(horizon, Integral) or horizon < 1:
        yield f"horizon must be an int of at least 1 step; got {horizon!r}"


def _sampling(watched: Watched) -> Iterator[str]:
    """Sampling tasks."""
    for count in (1, TASKS):
        task = watched.sample(count, generator=generator(0))
        if not isinstance(task, Mapping) or not task or not all(isinstance(v, Tensor) for v in task.values()):
            yield f"sample must return a mapping from names of constants to tensors; got {task!r}"
            return
        found = [line for name, value in task.items() for line in _constant(name, value, count)]
        yield from found
        if found:
            return
    again, other = (watched.sample(TASKS, generator=generator(seed)) for seed in (0, 1))
    if not same(task, again):
        yield "sample returns different tasks for equal generators; draw only from the given generator"
    elif same(task, other):
        constant = not _varied(task)
        yield (
            "sample always returns the same task: there is nothing to adapt to; vary at least one constant"
            if constant
            else "sample returns the same tasks for different generators; draw from the given generator"
        )
    yield from _declared(watched, task)


def _constant(name: str, value: Tensor, count: int) -> Iterator[str]:
    if value.shape != (count,) or value.dtype != torch.float32:
        yield f"sample({count}) must return {name} as ({count},), torch.float32; got {_kind(value)}"
    elif not bool(value.isfinite().all()):
        yield f"sample returns values of {name} that are not finite"


def _declared(watched: Watched, task: Task) -> Iterator[str]:
    """Check sampled tasks against the family's ``validate`` and ``contains``, if it has them."""
    validate, contains = (getattr(watched.family, name, None) for name in ("validate", "contains"))
    try:
        if validate is not None:
            validate(task)
    except ValueError as error:
        yield f"sample draws tasks that the family's own validate rejects: {error}"
    if contains is not None and not bool(contains(task).all()):
        first = int((~contains(task)).nonzero()[0])
        yield f"sample draws tasks outside the family's own ranges, such as {_one(task, first)}"


def _shapes(watched: Watched) -> Iterator[str]:
    """Shapes and dtypes."""
    yield from _shapes_of(watched, per_row(watched.sample(TASKS, generator=generator(0))), (TASKS, EPISODES))


def _single(watched: Watched) -> Iterator[str]:
    """A single environment, whose constants are 0-d."""
    task = watched.sample(TASKS, generator=generator(0))
    for line in _shapes_of(watched, {name: value[0] for name, value in task.items()}, ()):
        yield f"for a single environment, whose constants are 0-d, {line}"


def _shapes_of(watched: Watched, task: Task, rows: tuple[int, ...]) -> Iterator[str]:
    """Check one reset and one step with the given rows."""
    family = watched.family
    state = watched.reset(task, rows, generator=generator(0))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        yield f"reset must return a dict of tensors; got {_returned(state)}"
        return
    for k, v in state.items():
        if v.shape != rows:
            vector = v.dim() > len(rows) and v.shape[: len(rows)] == rows
            advice = "; store each of its numbers under its own name and stack them in observe" if vector else ""
            yield f"the state's {k} must be {rows}; got {_kind(v)}{advice}"
    seen = (*rows, *family.observation_space.shape)
    yield from _expect("the result of observe", watched.observe(task, state), seen, torch.float32)
    action = actions(family.action_space, 1, (TASKS, EPISODES), 0)[0]
    transition = watched.step(task, state, action if rows else action[0, 0])
    if not isinstance(transition, tuple) or len(transition) != 3 or not isinstance(transition[0], dict):
        yield f"step must return (state, reward, terminated); got {_returned(transition)}"
        return
    after, reward, terminated = transition
    yield from _expect("the reward of a step", reward, rows, torch.float32)
    yield from _expect("terminated", terminated, rows, torch.bool)
    before, later = ({k: _kind(v) for k, v in s.items()} for s in (state, after))
    if before.keys() != later.keys():
        yield f"step changes the names of the state from {list(before)} to {list(later)}"
    else:
        yield from (
            f"step changes the state's {k} from {before[k]} to {later[k]}" for k in before if before[k] != later[k]
        )


def _expect(what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[str]:
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        yield f"{what} must be {tuple(shape)}, {dtype}; got {_kind(value)}"


def _repeats(watched: Watched) -> Iterator[str]:
    """Repeating calls."""
    if is_live(watched):
        yield from _plays_again(watched)
        return
    task = watched.sample(TASKS, generator=generator(0))
    rows, constants, before = (TASKS, EPISODES), per_row(task), _attributes(watched.family)
    first = watched.reset(constants, rows, generator=generator(0))
    if not same(first, watched.reset(constants, rows, generator=generator(0))):
        yield "reset returns different initial states for equal generators; draw only from the given generator"
    yield from _draws(watched, constants, rows)
    moments = list(walk(watched, task, steps=LOOKED_AT))
    if any(_steps_otherwise(watched, constants, moment) for moment in moments[:1]):
        yield (
            "repeating a step gives a different result: step must depend only on task, state and action"
            f"{_changed(watched, before)}"
        )
        return
    other = watched.sample(TASKS, generator=generator(5))
    for _ in walk(watched, other, seed=6, steps=3):
        pass
    if any(_steps_otherwise(watched, constants, moment) for moment in reversed(moments)):
        yield (
            "step gives a different result after other tasks were sampled, reset and stepped: the family stores what it"
            f" must compute from the task{_changed(watched, before)}"
        )
    elif not same(first, watched.reset(constants, rows, generator=generator(0))):
        yield (
            "reset returns different initial states after other tasks were sampled and stepped"
            f"{_changed(watched, before)}"
        )


def _draws(watched: Watched, constants: Task, rows: tuple[int, ...]) -> Iterator[str]:
    """Check that initial states are drawn from the given generator and that it is not reseeded."""
    given = [generator(seed) for seed in (0, 1)]
    first, other = (watched.reset(constants, rows, generator=one) for one in given)
    if torch.equal(given[0].get_state(), given[1].get_state()):
        yield "reset reseeds the given generator, so that all episodes have the same noise; only draw from it"
    elif same(first, other) and any(bool((value[:, :1] != value[:, 1:]).any()) for value in first.values()):
        yield "reset returns the same initial states for different generators; draw from the given generator"


def is_live(watched: Watched) -> bool:
    """Return whether the family's episodes are in external environments: only the latest state can be stepped, once."""
    return bool(getattr(watched.family, "live", False))


def _plays_again(watched: Watched) -> Iterator[str]:
    """Compare whole episodes if single steps cannot be repeated, except for states, which are only tickets then."""
    task = watched.sample(TASKS, generator=generator(0))
    met: list[list[Any]] = []
    for _ in range(2):
        met.append([(one.observation, one.reward, one.terminated, one.seen) for one in walk(watched, task)])
    if not same(*met):
        yield "equal generators and actions give different episodes; start them only from the given generator"


def _steps_otherwise(watched: Watched, constants: Task, moment: Moment) -> bool:
    again = watched.step(constants, moment.state, moment.action)
    seen = watched.observe(constants, again[0])
    return not same((moment.after, moment.reward, moment.terminated, moment.seen), (*again, seen))


def _attributes(family: TaskFamily) -> dict[str, Any]:
    """Return copies of the family's attributes by name, to be compared later."""

    def frozen(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: frozen(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [frozen(part) for part in value]
        if isinstance(value, Tensor | np.ndarray):
            return value.clone() if isinstance(value, Tensor) else value.copy()
        return value if isinstance(value, int | float | str | None) else id(value)

    return {name: frozen(value) for name, value in getattr(family, "__dict__", {}).items()}


def _changed(watched: Watched, before: dict[str, Any]) -> str:
    """Return the names of the family's attributes that have changed, formatted for an error message."""
    after = _attributes(watched.family)
    names = [name for name in {**before, **after} if not same(before.get(name), after.get(name))]
    return f"; changed attributes of the family: {', '.join(names)}" if names else ""


def _alone(watched: Watched) -> Iterator[str]:
    """Many environments at once."""
    if is_live(watched):
        return
    task = watched.sample(TASKS, generator=generator(0))
    constants = per_row(task)
    moments = list(walk(watched, task))
    every = max(1, len(moments) // LOOKED_AT)
    for step in range(0, len(moments), every):
        moment = moments[step]
        living = moment.alive.nonzero().tolist()
        for row, episode in living[:: max(1, len(living) // 8)]:
            wrong = _differs_alone(watched, task, moment, row, episode)
            if wrong:
                yield (
                    f"an environment steps differently alone than in a batch, in {wrong} at step {step} of task"
                    f" {row}: the result of a row must depend on that row alone, not on a sum, any() or index"
                    " over rows"
                )
                return
    rows = (TASKS, EPISODES)
    first = watched.reset(constants, rows, generator=generator(2))
    alike = {name: value[:1].repeat(TASKS) for name, value in task.items()}
    mixed = watched.reset(per_row(alike), rows, generator=generator(2))
    if not same({k: v[:1] for k, v in first.items()}, {k: v[:1] for k, v in mixed.items()}):
        yield "the initial states of a task change with the constants of other tasks in the same reset"


def _differs_alone(watched: Watched, task: Task, moment: Moment, row: int, episode: int) -> str:
    """Return what differs if one of the rows is stepped by itself; empty if nothing does."""
    constants = {name: value[row] for name, value in task.items()}
    state = {name: value[row, episode] for name, value in moment.state.items()}
    after, reward, terminated = watched.step(constants, state, moment.action[row, episode])
    pairs = {f"the state's {name}": (moment.after[name][row, episode], value) for name, value in after.items()}
    pairs["the reward"] = moment.reward[row, episode], reward
    pairs["terminated"] = moment.terminated[row, episode], terminated
    pairs["the observation"] = moment.seen[row, episode], watched.observe(constants, after)
    return ", ".join(what for what, (many, one) in pairs.items() if not _close(many, one))


def _close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    """Return whether values are equal up to the rounding of vectorised kernels; integers and bools exactly."""
    if one.dtype.is_floating_point:
        return torch.allclose(one, other, rtol=tolerance, atol=0.1 * tolerance, equal_nan=True)
    return same(one, other)


def _constants(watched: Watched) -> Iterator[str]:
    """Constants that differ between tasks."""
    task = watched.sample(TASKS, generator=generator(0))
    silent, attempts, steps = _varied(task), 0, 0
    while silent and attempts < ATTEMPTS and steps < 2 * LONGEST:  # some rarely matter: one arm of many, a far goal
        moments = list(walk(watched, task, seed=2 * attempts))
        silent = [name for name in silent if not _matters(watched, task, name, moments, 2 * attempts)]
        attempts, steps = attempts + 1, steps + len(moments)
    for name in silent:
        yield (
            f"{name} has no effect: in {attempts * TASKS * EPISODES} episodes of random actions another value gives"
            " the same observations, rewards and terminations; use it in step, or remove it from the task"
        )


def _matters(watched: Watched, task: Task, name: str, moments: list[Moment], seed: int) -> bool:
    """Return whether another value of one constant changes what the agent experiences in these episodes."""
    value = task[name]
    other = next(rolled for k in range(1, TASKS) if not same(rolled := value.roll(k), value))
    changed = walk(watched, {**task, name: other}, seed=seed)
    return any(_tells(one, two) for one, two in zip(moments, changed, strict=False))


def _tells(one: Moment, two: Moment) -> bool:
    """Return whether the agent's experience of a step differs in a row whose episode is still running."""
    alive = one.alive & two.alive
    pairs = ((getattr(one, what), getattr(two, what)) for what in ("observation", "reward", "terminated", "seen"))
    return any(not same(a[alive], b[alive]) for a, b in pairs)


def _varied(task: Task) -> list[str]:
    """Return the names of the constants that are not the same in every task."""
    return [name for name, value in task.items() if bool((value != value[0]).any())]


def _values(watched: Watched) -> Iterator[str]:
    """Values in an episode."""
    task = _with_ends(watched.family, watched.sample(4 * TASKS, generator=generator(3)))
    told: set[str] = set()
    moments = list(walk(watched, task))
    last = moments[-1]
    for step, moment in enumerate(
        [*moments, last._replace(alive=last.alive & ~last.terminated, observation=last.seen)]
    ):
        for what, where in _unsound(watched.family.observation_space, moment).items():
            bad = (where & moment.alive).nonzero()
            if len(bad) and what not in told:
                told.add(what)
                yield f"{what} at step {step}, first in {_one(task, int(bad[0, 0]))}"
    if watched.family.horizon > 1 and len(moments) == 1:
        yield "every episode ends at its first step: terminated must be True where an episode ends, False otherwise"


def _with_ends(family: TaskFamily, task: Task) -> Task:
    """Move one constant of each of the first tasks to an end of its range, where equations are most likely to fail."""
    ranges, contains = getattr(family, "ranges", {}), getattr(family, "contains", None)
    ends = [(name, end) for name in _varied(task) if hasattr(ranges.get(name), "bounds") for end in ranges[name].bounds]
    moved = {name: value.clone() for name, value in task.items()}
    for row, (name, end) in zip(range(len(next(iter(task.values())))), ends, strict=False):
        moved[name][row] = end
    if contains is None:
        return moved
    sound = contains(moved)  # the valid values of a constant may depend on others
    return {name: torch.where(sound, value, task[name]) for name, value in moved.items()}


def _unsound(space: Any, moment: Moment) -> dict[str, Tensor]:
    """Return the rows with invalid values, by a description of the problem."""
    low, high = (torch.from_numpy(end) for end in (space.low, space.high))
    slack = 1e-5 * (1 + torch.maximum(low.abs(), high.abs()).nan_to_num(posinf=0.0))  # tolerate rounding
    outside = (moment.observation < low - slack) | (moment.observation > high + slack)
    return {
        "the observation is not finite": ~moment.observation.isfinite().all(-1),
        "the observation lies outside observation_space": outside.any(-1),
        "the reward is not finite": ~moment.reward.isfinite(),
        **{f"the state's {name} is NaN": value.isnan() for name, value in moment.state.items()},
    }


def _references(watched: Watched) -> Iterator[str]:
    """Reference returns."""
    references = getattr(watched.family, "references", None)
    if references is None:
        return
    found = references(watched.sample(TASKS, generator=generator(0)))
    for name, value in found.items():
        yield from _expect(f"reference {name!r}", value, (TASKS,), torch.float32)
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            yield f"reference {name!r} is not finite"
    if {"floor", "ceiling"} <= found.keys() and bool((found["floor"] > found["ceiling"]).any()):
        yield "reference 'floor' is above 'ceiling'"


def _devices(watched: Watched) -> Iterator[str]:
    """Other devices."""
    task = watched.sample(TASKS, generator=generator(0))
    expected = next(walk(watched, task))
    for device in ("meta", "cuda") if torch.cuda.is_available() else ("meta",):
        try:
            met = _first_step(watched.family, task, expected.action, device)
        except Exception as error:
            # Without a GPU, tensors on the meta device stand in for one. Code that branches on values fails there,
            # with errors that do not mention devices, although it would work on a GPU.
            if device == "cuda" or "device" in str(error):
                yield (
                    f"on a GPU the family would raise {checks.raised(error)}; draw random numbers with "
                    "device=generator.device and move them with .to(a value of the task)"
                )
            continue
        astray = [name for name, value in met.items() if value.device.type != device]
        if astray:
            yield f"with tasks on another device, {', '.join(astray)} are not on it; make tensors on the tasks' device"
        elif device == "cuda":
            cpu = _named(expected.state, expected.after, expected.reward, expected.terminated, expected.seen)
            wrong = [name for name, value in met.items() if not _close(value.cpu(), cpu[name], 1e-3)]
            if wrong:
                yield f"on a GPU the same generator gives different numbers, in {', '.join(wrong)}"


def _first_step(family: TaskFamily, task: Task, action: Tensor, device: str) -> dict[str, Tensor]:
    """Return initial states and one step by name, with the task on a device and the generator on the CPU."""
    constants = {name: value.to(device) for name, value in per_row(task).items()}
    state = family.reset(constants, (TASKS, EPISODES), generator=generator(0))
    after, reward, terminated = family.step(constants, state, action.to(device))
    return _named(state, after, reward, terminated, family.observe(constants, after))


def _named(state: State, after: State, reward: Tensor, terminated: Tensor, seen: Tensor) -> dict[str, Tensor]:
    first = {f"the initial state's {name}": value for name, value in state.items()}
    then = {f"the next state's {name}": value for name, value in after.items()}
    return {**first, **then, "the reward": reward, "terminated": terminated, "the observation": seen}


def _returned(value: Any) -> str:
    """Describe a returned value for an error message."""
    if not isinstance(value, tuple):
        return type(value).__name__
    kinds = ", ".join(type(part).__name__ for part in value)
    return f"({kinds})" + ("; leave out Gymnasium's truncated and info" if len(value) == 5 else "")


def _kind(value: Any) -> str:
    return f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _one(task: Task, index: int) -> str:
    """Describe a task by the constants that distinguish it from others."""
    named = ", ".join(f"{name}={float(task[name][index]):.4g}" for name in _varied(task) or task)
    return f"task {index} ({named})"


STAGES: tuple[tuple[Check, ...], ...] = (
    (_spaces,),
    (_horizon,),
    (_sampling,),
    (_shapes,),
    (_repeats,),
    (_single, _alone, _values, _constants, _references, _devices),
)
"""Each stage may rely on what the earlier ones have checked."""
