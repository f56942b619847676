"""Navigation on a grid of 5 x 5 cells: find the one cell that pays.

VariBAD's GridNavi (Zintgraf et al. 2020, arXiv:1910.08348): the agent starts in the corner (0, 0) and has 15 steps.
Each step pays 1 if it ends in the goal and -0.1 otherwise. Reaching the goal does not end the episode, so staying
there keeps paying. The goal is one of the 21 cells outside the 2 x 2 block at the start. The number of cell (x, y) is
``5 x + y``.
"""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from .checks import chosen
from .discrete import one_hot
from .family import Family, State, Task, Transition
from .parameters import Parameter
from .ranges import Choice, Distribution

SIZE = 5  # cells along an edge
ACTIONS = 5  # stay, and the four neighbours
CELLS = tuple(float(cell) for cell in range(SIZE * SIZE))
GOALS = tuple(cell for cell in CELLS if cell not in (0, 1, SIZE, SIZE + 1))  # all but the block around the corner
PAY, COST = 1.0, 0.1  # reward of a step that ends in the goal, cost of any other step
OBSERVATIONS = {"coordinates": 2, "one-hot": SIZE * SIZE}  # lengths


@final
class GridNavigation(Family):
    """A 5 x 5 grid with a hidden goal; actions are 0 stay, 1 up, 2 right, 3 down, 4 left, and edges block moves.

    Args:
        horizon: time limit in steps.
        observation: ``"coordinates"`` as in VariBAD, or ``"one-hot"`` for the one-hot cell.
        ranges: a number or distribution for any constant of ``GridNavigation.parameters``.

    Raises:
        ValueError: ``observation`` is unknown, or see ``Family``.
        TypeError: see ``Family``.
    """

    parameters: ClassVar = {
        "goal": Parameter(CELLS[-1], CELLS[0], CELLS[-1], "1", "number of the goal's cell", choices=CELLS),
        "start": Parameter(CELLS[0], CELLS[0], CELLS[-1], "1", "number of the first cell", choices=CELLS),
    }

    observation_space: Box  # (x, y), each 0 to 4; or the cell as a one-hot vector of 25 numbers
    action_space = Discrete(ACTIONS)  # 0 stays, 1 adds to y, 2 to x, 3 subtracts from y, 4 from x

    def __init__(self, horizon: int = 15, observation: str = "coordinates", **ranges: Distribution | float) -> None:
        super().__init__(horizon, {"goal": Choice(GOALS), **ranges}, {"observation": observation})
        length = OBSERVATIONS[chosen("observation", observation, OBSERVATIONS)]
        self._one_hot = observation == "one-hot"
        high = 1.0 if self._one_hot else SIZE - 1.0
        self.observation_space = Box(0.0, high, (length,), dtype=np.float32)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Put every row in the start cell; draws no random numbers."""
        x, y = _coordinates(task["start"])
        return {"x": x.expand(rows).clone(), "y": y.expand(rows).clone()}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the agent's position, ``[*rows, 2]`` or ``[*rows, 25]``; the goal stays hidden."""
        if not self._one_hot:
            return torch.stack((state["x"], state["y"]), -1)
        cell = SIZE * state["x"] + state["y"]
        return one_hot(cell, SIZE * SIZE, cell.dtype)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Move, then reward the new cell. ``action`` is ``[*rows]`` with values 0 to 4 of any dtype."""
        x, y = _move(state["x"], state["y"], action)
        goal_x, goal_y = _coordinates(task["goal"])
        there = (x == goal_x) & (y == goal_y)
        reward = (PAY + COST) * there.to(x.dtype) - COST
        return Transition({"x": x, "y": y}, reward, torch.zeros_like(there))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return exact returns for each task, of the values' shape.

        ``ceiling``: the agent knows the goal, walks the shortest path, whose length is the city-block distance, and
        stays. ``random``: expected return of uniform actions. ``floor``: stand still, which is worse unless the start
        is the goal.
        """
        start, goal = task["start"].double(), task["goal"].double()
        (start_x, start_y), (goal_x, goal_y) = _coordinates(start), _coordinates(goal)
        way = (goal_x - start_x).abs() + (goal_y - start_y).abs()
        paid = (self.horizon + 1 - way.clamp_min(1)).clamp_min(0)  # with distance 0 every step pays, as with 1
        still = (way == 0) * float(self.horizon)
        visits = self._visits().to(start.device)[start.long(), goal.long()]
        counts = {"ceiling": paid, "random": visits, "floor": still}
        returns = {name: (PAY + COST) * count - COST * self.horizon for name, count in counts.items()}
        return {name: value.to(task["goal"]) for name, value in returns.items()}

    def _visits(self) -> Tensor:
        """Return how many steps end in each cell, ``[25, 25]`` by start and cell, expected under uniform actions."""
        x, y = _coordinates(torch.tensor(CELLS, dtype=torch.float64).unsqueeze(-1))
        x, y = _move(x, y, torch.arange(ACTIONS))  # [25, 5]
        moves = torch.nn.functional.one_hot((SIZE * x + y).long(), SIZE * SIZE).double().mean(1)
        spread, visits = torch.eye(SIZE * SIZE, dtype=torch.float64), torch.zeros_like(moves)
        for _ in range(self.horizon):
            spread = spread @ moves
            visits = visits + spread
        return visits


def _coordinates(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return column and row of numbered cells."""
    x = (cell / SIZE).floor()
    return x, cell - SIZE * x


def _move(x: Tensor, y: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cell after an action."""
    right = (action == 2).to(x.dtype) - (action == 4).to(x.dtype)
    up = (action == 1).to(x.dtype) - (action == 3).to(x.dtype)
    return (x + right).clamp(0, SIZE - 1), (y + up).clamp(0, SIZE - 1)
