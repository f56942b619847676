"""A custom family: keep the water of a leaking tank at a level, with a pump and a leak of unknown strength.

    export PYTHONPATH=. TANK=examples.own_family:benchmark  # installed packages need no PYTHONPATH
    python experiments/check.py family $TANK
    python experiments/train.py navigation-fixed-best --benchmark $TANK --env-steps 1500000 --output runs/tank
    python experiments/evaluate.py runs/tank --split extrapolation --plugin $TANK

After less than a minute of training, one gradient step raises the return on new tanks from 37 to 47, of at most 50.

Torricelli's law: level' = (pump u - leak sqrt(2 g level)) / area, integrated by explicit Euler steps.
"""

import numpy as np
import torch
from gymnasium.spaces import Box

from envs import Family, LogRange, Parameter, Range, TaskBenchmark, Transition, Union

AREA, HEIGHT, STEP, GRAVITY = 1.0, 2.0, 5.0, 9.81  # m^2, m, s, m/s^2


class Tank(Family):
    """The reward is 1 minus the distance to the wanted level in tank heights; overflowing ends the episode.

    The reward is not negative, since otherwise agents would learn to end the episode early by overflowing.
    """

    parameters = {
        "pump": Parameter(0.05, 0.001, 1.0, "m^3/s", "inflow with the pump full on"),
        "leak": Parameter(0.005, 0.0, 0.1, "m^2", "area of the hole in the bottom"),
        "wanted": Parameter(1.0, 0.0, HEIGHT, "m", "level to hold"),
    }
    observation_space = Box(0.0, HEIGHT, (1,), dtype=np.float32)
    action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)

    def __init__(self, horizon=50, **ranges):
        super().__init__(horizon, ranges)

    def reset(self, task, rows, *, generator):
        """Draw levels between empty and half full."""
        level = torch.rand(rows, generator=generator, device=generator.device) * HEIGHT / 2
        return {"level": level.to(task["pump"])}

    def observe(self, task, state):
        """Return the level; the constants stay hidden."""
        return state["level"].unsqueeze(-1)

    def step(self, task, state, action):
        """Take one Euler step; action -1 stops the pump, 1 runs it at full power."""
        inflow = task["pump"] * (action.squeeze(-1).clamp(-1, 1) + 1) / 2
        outflow = task["leak"] * (2 * GRAVITY * state["level"]).sqrt()
        level = (state["level"] + STEP / AREA * (inflow - outflow)).clamp(0, HEIGHT)
        return Transition({"level": level}, 1 - (level - task["wanted"]).abs() / HEIGHT, level >= HEIGHT)


def benchmark(horizon=50):
    """Train on ranges of pumps, leaks and levels; extrapolate to smaller and larger leaks."""
    ranges = {"pump": LogRange(0.03, 0.1), "wanted": Range(0.5, 1.5)}
    beyond = Tank(horizon, **ranges, leak=Union(((0.001, 0.002), (0.006, 0.008))))
    return TaskBenchmark("tank", Tank(horizon, **ranges, leak=Range(0.002, 0.006)), {"extrapolation": beyond})
