"""W2: how fast are batched environments stepped, with random actions and with a policy that samples?

    python -m benchmarks.rollout [--rows 1 64 1024 16384] [--device cpu] [--repeats 7] [--output results/rollout.json]
    python -m benchmarks.rollout --peer "python -m benchmarks.yardstick_jax w2 --serve --environments own
                                         --kinds {kind} --rows {rows} --steps {steps}"

The environment is CartPole with 200 steps of every row. Every row has its own constants; ``--tasks`` lets rows share
them.

- With random actions, drawn beforehand, sides only step the equations and count rewards and ends: our family one
  operation after another ("eager"), the same in compiled blocks of ten steps ("compiled"), and Gymnasium's vectorised
  CartPole ("gymnasium"), whose rows all have the same constants.
- With a 2x64 tanh policy that samples, everything is recorded: by `metarl.collect` ("eager" and "compiled"), by a
  function with physics, policy and recording inlined, as one would write it for this purpose alone ("by-hand"), and
  by Gymnasium's environment with the same policy in torch.

All sides take turns. A column "/ NAME" is the ratio of speeds to that side's, within each turn. Records are held in
memory, which takes up to 1 kB per row and step on a CPU: for 1,048,576 rows use ``--steps 10``.

The document: a ``table`` of lines with the case (``kind``, ``rows``, ``steps``, ``tasks``), the side's
``name``, ``command`` (of a peer), ``seconds``, ``steps/s`` (``median``, ``min``, ``max``) and ``ratios`` by name.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor

from benchmarks import common
from envs import CartPole, Range
from experiments.errors import InputError, script
from metarl import MLP, CategoricalPolicy, Params, State, Task, TaskFamily, collect
from metarl.compilation import Programs
from metarl.rollouts import per_row, to_device

SIDES = ("eager", "compiled", "by-hand", "gymnasium")
KINDS = ("random", "policy")
CONSTANTS = ("gravity", "cart_mass", "pole_mass", "half_length", "force_magnitude")
BLOCK = 10  # steps in a compiled block

Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One case of the benchmark: the kind of actions, and the numbers of rows, steps and tasks."""

    kind: str
    rows: int
    steps: int
    tasks: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows as ``[T, N]``."""
        return self.tasks, self.rows // self.tasks


def family_for(steps: int) -> CartPole:
    """Return CartPole with Gymnasium's five constants varied by 20 %, and steps too short for a pole to fall."""
    usual = {name: CartPole.parameters[name].default for name in CONSTANTS}
    ranges = {name: Range(0.8 * value, 1.2 * value) for name, value in usual.items()}
    return CartPole(steps, time_step=0.1 / max(steps, 200), **ranges)


# ---------------------------------------------------------------- random actions


def step_all(family: TaskFamily, constants: Task, state: State, actions: Tensor) -> tuple[State, Tensor, Tensor]:
    """Take all actions ``[steps, T, N]``; return the last state and every row's numbers of rewards and ends."""
    rewards, ends = torch.zeros((2, *actions.shape[1:]), device=actions.device).unbind(0)
    for action in actions.unbind(0):
        state, reward, terminated = family.step(constants, state, action)
        rewards, ends = rewards + reward, ends + terminated
    return state, rewards, ends


def step_in_blocks(
    programs: Programs, family: TaskFamily, constants: Task, state: State, actions: Tensor
) -> tuple[State, Tensor, Tensor]:
    """Do the same as `step_all` by a compiled program of ten steps."""
    counts = []
    for block in actions.split(BLOCK):
        state, *counted = programs(("step",), functools.partial(step_all, family), dict(constants), state, block)
        counts.append(counted)
    rewards, ends = (torch.stack(column).sum(0) for column in zip(*counts, strict=True))
    return state, rewards, ends


def random_sides(case: Case, device: torch.device) -> dict[str, Run]:
    """Return the sides that step with given actions."""
    generator = torch.Generator().manual_seed(0)
    family = family_for(case.steps)
    constants = per_row(to_device(family.sample(case.tasks, generator=generator), device))
    state = family.reset(constants, case.shape, generator=generator)
    actions = torch.randint(2, (case.steps, *case.shape), generator=generator)
    environment, choices = vector_environment(case.rows), actions.flatten(1).numpy()
    environment.reset(seed=0)
    actions, programs = actions.to(device), Programs()
    return {
        "eager": lambda: step_all(family, constants, state, actions),
        "compiled": lambda: step_in_blocks(programs, family, constants, state, actions),
        "gymnasium": lambda: [environment.step(action) for action in choices],
    }


# ---------------------------------------------------------------- a policy


@torch.no_grad()
def by_hand(task: Task, weights: list[Tensor], start: Tensor, noise: Tensor) -> list[Tensor]:
    """Roll out in a single function: Gymnasium's CartPole equations, a 2x64 tanh policy, sampling, recording.

    ``start`` ``[4, T, N]`` and ``noise`` ``[steps, T, N]`` are uniform in [0, 1).
    """
    w1, b1, w2, b2, w3, b3 = weights
    gravity, cart, pole, half = (
        task[name].unsqueeze(1) for name in ("gravity", "cart_mass", "pole_mass", "half_length")
    )
    push = (task["force_magnitude"] * task["polarity"]).unsqueeze(1)
    total, moment, tau = cart + pole, pole * half, task["time_step"].unsqueeze(1)
    x, x_dot, theta, theta_dot = (start * 0.1 - 0.05).unbind(0)
    alive = torch.ones_like(x, dtype=torch.bool)
    columns: list[list[Tensor]] = [[], [], [], [], []]
    limit = 12 * 2 * math.pi / 360
    for uniform in noise:
        observation = torch.stack((x, x_dot, theta, theta_dot), -1)
        hidden = torch.tanh(observation @ w1.T + b1)
        hidden = torch.tanh(hidden @ w2.T + b2)
        logits = hidden @ w3.T + b3
        action = (uniform < torch.sigmoid(logits[..., 1] - logits[..., 0])).long()
        force = push * (2 * action - 1)
        cos, sin = theta.cos(), theta.sin()
        temp = (force + moment * theta_dot.square() * sin) / total
        theta_acc = (gravity * sin - cos * temp) / (half * (4.0 / 3.0 - pole * cos.square() / total))
        x_acc = temp - moment * theta_acc * cos / total
        x, x_dot = x + tau * x_dot, x_dot + tau * x_acc
        theta, theta_dot = theta + tau * theta_dot, theta_dot + tau * theta_acc
        terminated = (x.abs() > 2.4) | (theta.abs() > limit)
        for column, value in zip(columns, (observation, action, logits, alive, terminated), strict=True):
            column.append(value)
        alive = alive & ~terminated
    return [torch.stack(column, 1) for column in columns]


def vector_environment(rows: int) -> Any:
    """Return Gymnasium's CartPole, vectorised over rows."""
    return gymnasium.make_vec("CartPole-v1", num_envs=rows, vectorization_mode="vector_entry_point")


@torch.no_grad()
def with_gymnasium(environment: Any, policy: CategoricalPolicy, params: Params, noise: Tensor) -> list[Tensor]:
    """Record our policy in Gymnasium's environment for as many steps as there is noise ``[steps, n]``."""
    seen, _ = environment.reset(seed=0)
    record = []
    for uniform in noise:
        observation = torch.from_numpy(seen).to(noise.device)
        distribution = policy(params, observation)
        action = distribution.sample(uniform)
        seen, reward, terminated, truncated, _ = environment.step(action.cpu().numpy())
        outcome = (torch.from_numpy(reward), torch.from_numpy(terminated | truncated))
        record.append((observation, action, *distribution, *outcome))
    return [torch.stack(column) for column in zip(*record, strict=True)]


def policy_sides(case: Case, device: torch.device) -> dict[str, Run]:
    """Return the sides that act with a policy and record; all draw their noise within the measured time."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.Generator(device).manual_seed(0)
    family = family_for(case.steps)
    task = to_device(family.sample(case.tasks, generator=generator), device)
    policy = CategoricalPolicy(MLP(4, [64, 64], 2, generator=generator)).to(device)
    params = {name: leaf.detach() for name, leaf in policy.initial().items()}
    weights, environment, programs = list(params.values()), vector_environment(case.rows), Programs()

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=noise, device=device)

    def library(programs: Programs | None) -> Run:
        return lambda: collect(policy, params, family, task, case.shape[1], generator=noise, programs=programs)

    return {
        "eager": library(None),
        "compiled": library(programs),
        "by-hand": lambda: by_hand(task, weights, uniform(4, *case.shape), uniform(case.steps, *case.shape)),
        "gymnasium": lambda: with_gymnasium(environment, policy, params, uniform(case.steps, case.rows)),
    }


# ---------------------------------------------------------------- measuring


def measure(case: Case, arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure the steps per second of every side of a case, and the ratios of speeds to all but the compiled side."""
    sides: dict[str, common.Contender] = {}
    with ExitStack() as stack:
        made = (random_sides if case.kind == "random" else policy_sides)(case, device)
        for name in arguments.only:
            sides |= {name: made[name]} if name in made else {}
        for i, command in enumerate(arguments.peer, 1):
            for field, value in asdict(case).items():
                command = command.replace(f"{{{field}}}", str(value))
            sides[f"peer {i}"] = stack.enter_context(common.Peer(command))
        times = common.alternate(sides, arguments.repeats, device)
    steps = case.rows * case.steps
    return [
        {
            **asdict(case),
            "name": name,
            "command": side.command if isinstance(side, common.Peer) else None,
            "seconds": times[name],
            "steps/s": common.summary([steps / spent for spent in times[name]]),
            "ratios": {other: common.ratios(times[other], times[name]) for other in sides if other != "compiled"},
        }
        for name, side in sides.items()
    ]


def show(table: list[dict[str, Any]], device: torch.device) -> None:
    against = list(dict.fromkeys(other for row in table for other in row["ratios"]))
    lines = []
    for row in table:
        speed = common.spread(common.scaled(row["steps/s"], 1e-6))
        ratios = [common.spread(row["ratios"].get(other)) for other in against]
        lines.append([row["kind"], str(row["rows"]), row["name"], speed, *ratios])
    common.show(["actions", "rows", "", "M steps/s", *(f"/ {other}" for other in against)], lines, device)


def cases(arguments: argparse.Namespace) -> list[Case]:
    """Return all cases.

    Raises:
        InputError: a count is too small, tasks do not divide the rows, or a peer would run the wrong kind or size.
    """
    for name, values in (("kind", arguments.kinds), ("rows", arguments.rows)):
        for command in arguments.peer:
            if len(values) > 1 and f"{{{name}}}" not in command:
                raise InputError(
                    f"peer {command!r} must contain {{{name}}}, or give a single value of --{name.rstrip('s')}s"
                )
    found = []
    for kind in arguments.kinds:
        for rows in arguments.rows:
            tasks = rows if arguments.tasks is None else min(rows, arguments.tasks)
            if min(tasks, arguments.steps) < 1 or rows % tasks:
                counts = f"{rows} rows, {tasks} tasks, {arguments.steps} steps"
                raise InputError(f"expected counts of at least 1, and rows divisible by tasks, got {counts}")
            found.append(Case(kind, rows, arguments.steps, tasks))
    return found


@script
def main(argv: list[str]) -> None:
    parser = common.options(__doc__, repeats=7)
    common.add_peers(parser, "; {kind}, {rows} and {steps} in it are replaced by those of each case")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 1024, 16384])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tasks", type=int, help="number of tasks, each with its own constants (default: one per row)")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=SIDES)
    arguments = parser.parse_args(argv)
    device = common.prepare(arguments)
    table = [line for case in cases(arguments) for line in measure(case, arguments, device)]
    show(table, device)
    common.write(arguments.output, device, table=table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
