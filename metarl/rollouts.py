"""Rollouts: act in ``[T, N]`` environments at once, without a graph, and record their episodes as a batch.

All noise of a rollout is drawn before its first step, so that the noise of a step does not depend on how long
episodes last. Two policies rolled out with equal generators therefore act on common noise.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl import checks
from metarl.compilation import Program, Programs
from metarl.errors import NonFiniteError
from metarl.lifting import in_pieces
from metarl.packing import live_steps
from metarl.policies import Policy, is_stacked, refuse_unknown
from metarl.trees import leaves_of, map_leaves
from metarl.types import Batch, Params, State, Task, TaskFamily, expect_family

BLOCK = 10  # steps between checks whether all episodes have ended: each check is a host-device synchronisation
BLOCKS_OF_ONE = 2  # blocks in a program for a single row, which takes longer to call than to compute
ROWS = range(2**11, 2**12 + 1)  # allowed numbers of rows in a piece of a compiled rollout on a CPU

Act = Literal["sample", "mode"]


class _Record(NamedTuple):
    """One step of every row ``[T, N, ...]``, or H steps ``[T, H, N, ...]``."""

    observation: Tensor
    action: Tensor
    distribution: Any
    reward: Tensor
    padding: Tensor  # bool: the episode ended before this step
    terminated: Tensor


_Moment = tuple[State, Tensor, Tensor]
"""The current state of a rollout: states, observations, and which rows have ended."""

_Block = tuple[_Moment, _Record, Tensor]
"""The state of a rollout after some steps, their record, and the log-probabilities of their actions."""


def per_row(task: Task) -> dict[str, Tensor]:
    """Return task values ``[T]`` as ``[T, 1]``, to broadcast against ``[T, N]`` rows."""
    return {name: value.unsqueeze(-1) for name, value in task.items()}


def task_count(task: Task) -> int:
    """Return the number of tasks in a task set.

    Raises:
        TypeError: the task set is not a mapping.
        ValueError: it has no constants, or constants that are not tensors of one common shape ``[T]``.
    """
    checks.of_type("task", task, Mapping, "constants by name, such as from benchmark.sample(...)")
    came = {name: list(x.shape) if isinstance(x, Tensor) else checks.told(x) for name, x in task.items()}
    shape = next(iter(came.values()), [])
    if isinstance(shape, str) or len(shape) != 1 or any(other != shape for other in came.values()):
        advice = "; family.task(name=value, ...) makes a task from numbers" if isinstance(shape, str) else ""
        raise ValueError(f"expected task constants of one common length [T], got {came}{advice}")
    return int(shape[0])


Start = tuple[State, Tensor]
"""What is drawn before a rollout: initial states ``[T, N]`` and the noise of the actions ``[H, T, N, ...]``."""


def draw(policy: Policy, family: TaskFamily, task: Task, episodes: int, *, generator: torch.Generator) -> Start:
    """Draw initial states and noise for ``episodes`` episodes of every task, on the task's device.

    Raises:
        TypeError: a family or generator of the wrong type.
        ValueError: there are no tasks, ``episodes`` is below 1, or the task belongs to another family.
    """
    expect_family(family)
    checks.generator(generator)
    checks.whole("episodes", episodes)
    rows = (task_count(task), episodes)
    checks.whole("number of tasks", rows[0])
    try:
        state = family.reset(per_row(task), rows, generator=generator)
    except KeyError as error:
        if error.args[0] not in getattr(family, "parameters", {}) or error.args[0] in task:
            raise  # the error comes from the family itself, not from a missing constant
        raise ValueError(
            f"expected a task of the family, got one of {list(task)} without {error}; sample tasks from the family "
            "that is played, or from a benchmark of it"
        ) from error
    noise = policy.noise((family.horizon, *rows), generator=generator)
    return state, noise.to(next(iter(task.values())).device)


def collect(
    policy: Policy,
    params: Mapping[str, Tensor],
    family: TaskFamily,
    task: Task,
    episodes: int,
    *,
    generator: torch.Generator,
    act: Act = "sample",
    programs: Programs | None = None,
) -> Batch:
    """Roll out exactly ``episodes`` whole episodes of every task: `draw`, then `roll_out`.

    Raises:
        ValueError: parameters that the policy does not have; also see `draw` and `roll_out`.
    """
    refuse_unknown(policy, params)
    start = draw(policy, family, task, episodes, generator=generator)
    return roll_out(policy, params, family, task, start, act=act, programs=programs)


@torch.no_grad()
def roll_out(
    policy: Policy,
    params: Mapping[str, Tensor],
    family: TaskFamily,
    task: Task,
    start: Start,
    *,
    act: Act = "sample",
    programs: Programs | None = None,
) -> Batch:
    """Roll out one whole episode for every row of ``start``, ended by the task or by the time limit.

    Args:
        policy: maps parameters and observations to action distributions.
        params: one set shared by all tasks ``[...]``, or one set per task ``[T, ...]``.
        family: the environments.
        task: values ``[T]``, on the device to run on.
        start: the result of `draw`.
        act: ``"sample"``, or ``"mode"`` for the mean (Gaussian) or most likely (categorical) action.
        programs: if given, run blocks of steps as compiled programs. The rollout then always continues up to the time
            limit, so that every rollout has the same shape and the host never waits for the device.

    Returns:
        A batch ``[T, H, N, ...]``, H being at most the family's horizon. Without ``programs`` the rollout stops early
        once all episodes have ended, which is checked every `BLOCK` steps. Advantages and values are zero until an
        estimator fills them in.

    Raises:
        NonFiniteError: an observation, action probability or reward of a running episode is NaN or infinite.
        ValueError: an unknown value of ``act``.
    """
    if act not in get_args(Act):
        raise ValueError(f"act must be {' or '.join(map(repr, get_args(Act)))}, got {act!r}")
    state, noise = start
    constants = per_row(task)
    over = torch.zeros(noise.shape[1:3], dtype=torch.bool, device=noise.device)
    moment: _Moment = (state, family.observe(constants, state), over)
    steps = functools.partial(_steps, policy, family, act)
    if programs is None:
        moment, record = _plainly(steps, params, constants, moment, noise)
        log_prob = record.distribution.log_prob(record.action)
    else:
        key = ("rollout", id(policy), id(family), act)
        find = functools.partial(programs.find, key, functools.partial(_block, steps))
        moment, record, log_prob = _compiled(find, dict(params), is_stacked(policy, params), constants, moment, noise)
    batch = _clean(record, log_prob, *moment[1:])
    if programs is None:  # compiled programs need a fixed shape, which a list of live steps does not have
        batch = batch._replace(live=live_steps(batch.mask))
    _refuse_non_finite(batch)
    return batch


def _plainly(
    steps: Callable[..., tuple[_Moment, list[_Record]]],
    params: Mapping[str, Tensor],
    constants: Task,
    moment: _Moment,
    noise: Tensor,
) -> tuple[_Moment, _Record]:
    """Step until all rows have ended; return the state of the rollout and the record of its steps."""
    records: list[_Record] = []
    for part in torch.split(noise, BLOCK):
        moment, taken = steps(params, constants, moment, part)
        records.extend(taken)
        if moment[2].all():
            break
    return moment, _stack(records)


def _compiled(
    find: Callable[..., tuple[Program, list[Tensor]]],
    params: Params,
    stacked: bool,
    constants: Task,
    moment: _Moment,
    noise: Tensor,
) -> _Block:
    """Run block after block of steps up to the time limit, for one piece of the tasks at a time."""

    def piece(given: tuple[Params, Task, _Moment, Tensor]) -> _Block:
        own, constants, moment, noise = given
        return _blocks(find, own if stacked else params, constants, moment, torch.split(noise.movedim(1, 0), steps))

    tasks, episodes = noise.shape[1:3]
    steps = BLOCK * BLOCKS_OF_ONE if tasks * episodes == 1 else BLOCK
    size = _piece_size(tasks, episodes) if noise.device.type == "cpu" else tasks
    tree = (params if stacked else {}, constants, moment, noise.movedim(0, 1))
    found: _Block = in_pieces(piece, tree, tasks=tasks, size=size)
    return found


def _blocks(
    find: Callable[..., tuple[Program, list[Tensor]]],
    params: Params,
    constants: Task,
    moment: _Moment,
    parts: Sequence[Tensor],
) -> _Block:
    """Run one block for each part of the noise ``[steps, T, N, ...]``.

    A program that continues from its own results is not looked up again, which saves a sixth of the time with a single
    row. This is safe because its results have the same memory layout every time, the one it was compiled for.
    """
    moving, columns = len(leaves_of(moment)), list[list[Tensor]]()
    program, leaves = find(params, constants, moment, parts[0])
    results = program.run(*leaves)
    itself = False
    for before, part in itertools.pairwise(parts):
        columns.append(results[moving:])
        if itself and len(part) == len(before):
            leaves[-moving - 1 :] = [*results[:moving], part]
        else:
            last = program
            program, leaves = find(params, constants, program.shaped(results)[0], part)
            itself = program is last
        results = program.run(*leaves)
    steps = [torch.cat(column, 1) for column in zip(*columns, results[moving:], strict=True)]
    found: _Block = program.shaped([*results[:moving], *steps])
    return found


def _piece_size(tasks: int, episodes: int) -> int:
    """Return the number of tasks in one piece of a compiled rollout on a CPU.

    All tasks form one piece, unless they can be divided into pieces of equal size whose number of rows is in `ROWS`.
    Then the activations of a step stay in the cache, and one program serves all pieces.
    """
    sizes = range(1, min(tasks, ROWS.stop))
    return max((size for size in sizes if tasks % size == 0 and size * episodes in ROWS), default=tasks)


def _steps(
    policy: Policy,
    family: TaskFamily,
    act: Act,
    params: Mapping[str, Tensor],
    constants: Task,
    moment: _Moment,
    noise: Tensor,
) -> tuple[_Moment, list[_Record]]:
    """Take one step for each entry of the noise ``[steps, T, N, ...]``."""
    state, observation, over = moment
    records = []
    for dice in noise.unbind(0):
        distribution = policy(params, observation)
        action = distribution.mode() if act == "mode" else distribution.sample(dice)
        state, reward, terminated = family.step(constants, state, action)
        records.append(_Record(observation, action, distribution, reward, over, terminated))
        over = over | terminated
        observation = family.observe(constants, state)
    return (state, observation, over), records


def _block(steps: Callable[..., tuple[_Moment, list[_Record]]], *given: Any) -> _Block:
    """Take some steps within a compiled program.

    Log-probabilities are computed step by step, because the compiler can then fuse them with the rest of the step; for
    all steps at once they would need a pass of their own.
    """
    moment, records = steps(*given)
    log_prob = torch.stack([record.distribution.log_prob(record.action) for record in records], 1)
    return moment, _stack(records), log_prob


def _stack(records: list[_Record]) -> _Record:
    """Stack steps ``[T, N, ...]`` into one record ``[T, H, N, ...]``."""
    stacked: _Record = map_leaves(lambda *leaves: torch.stack(leaves, 1), *records)
    return stacked


def _clean(record: _Record, log_prob: Tensor, last_observation: Tensor, over: Tensor) -> Batch:
    """Turn a record into a batch ``[T, H, N, ...]``; zero the steps after each episode's end, which are padding."""

    def clean(x: Tensor, where: Tensor) -> Tensor:
        return x.masked_fill(where.reshape(where.shape + (1,) * (x.dim() - where.dim())), 0)

    terminated = record.terminated & ~record.padding
    if over.device.type != "cpu" or over.any():  # on a GPU, `any` would force a synchronisation
        log_prob = clean(log_prob, record.padding)
        record = map_leaves(lambda leaf: clean(leaf, record.padding), record)._replace(padding=record.padding)
        last_observation = clean(last_observation, over)
    weight = (~record.padding).to(record.reward.dtype)
    empty = torch.zeros_like(record.reward)
    everywhere = torch.empty(len(weight), 0, dtype=torch.int64, device=weight.device)
    return Batch(
        record.observation, record.action, record.distribution, log_prob, record.reward,
        weight, terminated, last_observation, empty, empty, everywhere,
    )  # fmt: skip


def _refuse_non_finite(batch: Batch) -> None:
    """Check that a whole rollout is finite; the error names the first bad value, its task, episode and step."""
    looked_at = {
        "observation": batch.observation,
        "action probability": batch.log_prob,
        "reward": batch.reward,
        "last observation": batch.last_observation.unsqueeze(1),
    }
    if bool(torch.stack([values.sum() for values in looked_at.values()]).isfinite().all()):
        return  # a non-finite value makes its sum non-finite; the reverse need not hold, as the sum may overflow
    found = []
    for name, values in looked_at.items():
        bad = ~values.isfinite()
        for task, step, episode in (bad.flatten(3).any(-1) if bad.dim() > 3 else bad).nonzero().tolist():
            last = batch.mask.shape[1] if name == "last observation" else step
            found.append((last, task, episode, name))
    if not found:
        return
    step, task, episode, name = min(found, key=lambda entry: entry[0])
    raise NonFiniteError(
        f"non-finite {name} in task {task}, episode {episode}, step {step}: expected finite numbers; "
        "check the family's physics, or lower the step sizes if the parameters have diverged"
    )


def to_device(task: Task, device: torch.device | str) -> Params:
    """Return the task set on another device."""
    return {name: value.to(device) for name, value in task.items()}
