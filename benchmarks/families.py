"""How fast does every family step, natively and through each adapter, compared with Gymnasium's environments?

    python -m benchmarks.families [--rows 1024] [--steps 20] [--families CartPole ...] [--output results/...json]

Every contender steps ``rows`` environments ``steps`` times with random actions drawn beforehand, and observes after
each step. All contenders of a family take turns. Families have a horizon that no row reaches. If Gymnasium has the same
environment, its ``SyncVectorEnv`` is measured as well.

The document: a ``table`` of lines with ``family``, ``adapter``, ``seconds`` and their ``median``, ``min`` and
``max``, ``steps a second``, and ``native`` (how many times as slow as the native family, within each turn).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv

import metarl.sb3
from benchmarks import common
from envs import Family
from envs.adapters import FamilyVectorEnv, GymnasiumFamily
from envs.adapters.registration import FAMILIES
from experiments.errors import InputError, script
from metarl.rollouts import per_row

PEERS: dict[str, tuple[str, dict[str, float]]] = {  # Gymnasium's id, and a constant for `GymnasiumFamily` to set
    "CartPole": ("CartPole-v1", {"gravity": 9.8}),
    "Acrobot": ("Acrobot-v1", {"torque_noise_max": 0.0}),
    "Pendulum": ("Pendulum-v1", {"g": 10.0}),
    "MountainCar": ("MountainCar-v0", {"force": 0.001}),
    "ContinuousMountainCar": ("MountainCarContinuous-v0", {"power": 0.0015}),
}
LONG = 100_000  # time limit in steps, so long that no episode is truncated while measured


def native(family: Family | GymnasiumFamily, rows: int, actions: torch.Tensor) -> Callable[[], None]:
    """Return a run of the family's own methods on ``[rows, 1]`` environments with a task each, reset included."""
    generator = torch.Generator().manual_seed(0)
    task = per_row(dict(family.sample(rows, generator=generator)))

    @torch.no_grad()
    def run() -> None:
        state = family.reset(task, (rows, 1), generator=generator)
        for action in actions.unsqueeze(2):
            state, _, _ = family.step(task, state, action)
            family.observe(task, state)

    return run


def stepping(environment: Any, actions: np.ndarray) -> Callable[[], None]:
    """Return a run that steps a vector environment, which has been reset; rows that end restart."""

    def run() -> None:
        for action in actions:
            environment.step(action)

    return run


def contenders(name: str, rows: int, steps: int) -> dict[str, Callable[[], None]]:
    """Return, for every adapter, a run that steps ``rows`` environments of the family ``steps`` times."""
    make: Any = FAMILIES[name]
    family: Family = make(horizon=LONG)
    space = family.action_space
    space.seed(0)
    actions = np.stack([np.stack([space.sample() for _ in range(rows)]) for _ in range(steps)])
    found = {"native": native(family, rows, torch.from_numpy(actions))}
    vector = FamilyVectorEnv(family, rows)
    vector.reset(seed=0)
    found["Gymnasium VectorEnv"] = stepping(vector, actions)
    task = family.sample(rows, generator=torch.Generator().manual_seed(0))
    sb3 = metarl.sb3.TaskVecEnv(family, task)
    sb3.reset()
    found["SB3 VecEnv"] = stepping(sb3, actions)
    if name in PEERS:
        env_id, constants = PEERS[name]
        peer = SyncVectorEnv([lambda: gymnasium.make(env_id, max_episode_steps=LONG) for _ in range(rows)])
        peer.reset(seed=0)
        found["Gymnasium's SyncVectorEnv"] = stepping(peer, actions)
        found["GymnasiumFamily"] = native(
            GymnasiumFamily(env_id, constants, horizon=LONG), rows, torch.from_numpy(actions)
        )
    return found


def measure(name: str, rows: int, steps: int, repeats: int) -> list[dict[str, Any]]:
    """Return the lines of the table for one family."""
    times = common.alternate(contenders(name, rows, steps), repeats, torch.device("cpu"), warm=True)
    return [
        {
            "family": name,
            "adapter": adapter,
            "seconds": values,
            **common.summary(values),
            "steps a second": rows * steps / common.summary(values)["median"],
            "native": common.ratios(values, times["native"]),
        }
        for adapter, values in times.items()
    ]


@script
def main(argv: list[str]) -> None:
    parser = common.options(__doc__, repeats=5)
    parser.add_argument("--rows", type=int, default=1024, help="number of parallel environments (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="steps per run (default: %(default)s)")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), help="families to measure (default: all)")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.families if name not in FAMILIES]
    if unknown or min(arguments.rows, arguments.steps) < 1:
        raise InputError(f"expected families of {', '.join(FAMILIES)}, rows and steps >= 1; got {arguments}")
    device = common.prepare(arguments)
    table = [
        line
        for name in arguments.families
        for line in measure(name, arguments.rows, arguments.steps, arguments.repeats)
    ]
    lines = [
        [line["family"], line["adapter"], f"{line['steps a second'] / 1e6:.3g}", common.spread(line["native"])]
        for line in table
    ]
    common.show(["family", "adapter", "million steps per second", "times as slow as native"], lines, device)
    common.write(arguments.output, device, rows=arguments.rows, steps=arguments.steps, table=table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
