"""CartPole with everything hidden and wide, and the same behind scrambled sensors. Both are this project's own."""

from __future__ import annotations

import torch

from ..cartpole import ANGLE_LIMIT, POSITION_LIMIT, CartPole
from ..coarse import Coarse
from ..family import Family
from ..ranges import Choice, Distribution, LogRange, LogUnion, Range, Union
from ..splits import TaskBenchmark
from ..wrappers import CentredReward, Delayed, RewiredSensors
from ..wrappers.sensors import wirings

SIGN, DELAYS, LENGTH = Choice((-1.0, 1.0)), Choice((0.0, 1.0)), Range(0.25, 1)
SENSORS = 4

# Controllable in every corner: a controller that knows the constants holds the pole up for 500 steps there.
WITHIN: dict[str, Distribution] = {
    "gravity": Range(5, 15),
    "cart_mass": Range(0.5, 2),
    "pole_mass": Range(0.05, 0.5),
    "half_length": LENGTH,
    "force_magnitude": LogRange(10 / 3, 30),
    "cart_friction": Range(0, 0.5),
    "pole_friction": Range(0, 0.01),
    "polarity": SIGN,
}
# All beyond at once. The weakest push is barely enough within, so there is little room on that side: the same
# controller loses some 1 of 1000 episodes here.
BEYOND: dict[str, Distribution] = {
    "gravity": Union(((3, 5), (15, 16))),
    "cart_mass": Union(((0.4, 0.5), (2, 2.2))),
    "pole_mass": Union(((0.03, 0.05), (0.5, 0.6))),
    "half_length": Union(((0.2, 0.25), (1, 1.4))),
    "force_magnitude": LogUnion(((3, 10 / 3), (30, 40))),
    "cart_friction": Range(0.5, 0.6),
    "pole_friction": Range(0.01, 0.015),
    "polarity": SIGN,
}
# The inner part of the training range, and its ends: as hard to reach from there as what lies beyond is from within.
INNER: dict[str, Distribution] = {
    "gravity": Range(8, 11.5),
    "cart_mass": Range(0.8, 1.5),
    "pole_mass": Range(0.12, 0.38),
    "half_length": Range(0.4, 0.65),
    "force_magnitude": LogRange(5.5, 16),
    "cart_friction": Range(0, 0.3),
    "pole_friction": Range(0, 0.006),
    "polarity": SIGN,
}
ENDS: dict[str, Distribution] = {
    "gravity": Union(((5, 6), (14, 15))),
    "cart_mass": Union(((0.5, 0.55), (1.85, 2))),
    "pole_mass": Union(((0.05, 0.07), (0.46, 0.5))),
    "half_length": Union(((0.25, 0.28), (0.9, 1))),
    "force_magnitude": LogUnion(((10 / 3, 3.7), (26, 30))),
    "cart_friction": Range(0.4, 0.5),
    "pole_friction": Range(0.008, 0.01),
    "polarity": SIGN,
}


def cartpole_all(horizon: int = 500) -> TaskBenchmark:
    """Sign, strength, gravity, masses, length, frictions and a delay of 0 or 1 step: all hidden, all wide.

    Strengths are log-uniform within a third and three times the default 10 N. Every training task can be
    held up for 500 steps by one who knows its constants. Poles of middling length are a hole; extrapolation
    lies beyond in every constant but sign and delay.
    """
    hole = WITHIN | {"half_length": Range(0.6, 0.75)}
    return TaskBenchmark(
        "cartpole-all",
        _delayed(horizon, WITHIN),
        {"interpolation": _delayed(horizon, hole), "extrapolation": _delayed(horizon, BEYOND)},
    )


def cartpole_all_centred(horizon: int = 500) -> TaskBenchmark:
    """The same, where a step is worth less the nearer it comes to the limits: to be scored in, not to be adapted to.

    Who stays up scores alike in ``cartpole_all`` with and without room to spare; beyond its range the room is needed.
    """
    family = CentredReward(_delayed(horizon, WITHIN), {"x": POSITION_LIMIT, "theta": ANGLE_LIMIT})
    return TaskBenchmark("cartpole-all-centred", family)


def cartpole_all_inner(horizon: int = 500) -> TaskBenchmark:
    """Trained on the inner part of ``cartpole_all``'s training range; what is tested lies at the ends of that range.

    To choose settings by how they carry over, without a look at what ``cartpole_all`` is going to be tested on.
    """
    return TaskBenchmark("cartpole-all-inner", _delayed(horizon, INNER), {"extrapolation": _delayed(horizon, ENDS)})


def _delayed(horizon: int, ranges: dict[str, Distribution]) -> Delayed:
    return Delayed(CartPole(horizon, **ranges), delay=DELAYS)


def cartpole_scrambled(horizon: int = 500) -> TaskBenchmark:
    """``cartpole_all`` behind sensors in any order and with any signs: 768 wirings, the actuator's sign included.

    The wiring of the sensors alone decides the split, whatever the physics: no held-out split holds a
    wiring that training has seen. Validation and test have new wirings and the physics of training;
    interpolation has new wirings and poles of middling length, which training lacks, and extrapolation new
    wirings and physics beyond in every constant but sign and delay.

    Half of the 768 are copies: with all sensors and the actuator turned around, CartPole looks as before.
    Both polarities are trained on, so a wiring and the one with all signs turned belong to one split. Of 192
    such pairs 151 are trained on, 19 are for validation and 22 for the test.
    """
    name, count = "cartpole-scrambled", wirings(SENSORS)

    def scrambled(ranges: dict[str, Distribution], wiring: Distribution, delay: Distribution) -> RewiredSensors:
        return RewiredSensors(Delayed(CartPole(horizon, **ranges), delay=delay), wiring)

    # A gap where cartpole_all has a hole: a hole is made of cells, and lengths have just one here.
    lengths = WITHIN | {"half_length": Union(((0.25, 0.6), (0.75, 1)))}
    physics: dict[str, Distribution] = {constant: Coarse(values) for constant, values in lengths.items()}
    every = Coarse(Choice(tuple(float(number) for number in range(count))), count // 2)
    train = scrambled(physics, every, Coarse(DELAYS))
    unseen = Choice(_untrained(TaskBenchmark(name, train)))
    return TaskBenchmark(
        name,
        train,
        {
            "interpolation": scrambled(WITHIN | {"half_length": Range(0.6, 0.75)}, unseen, DELAYS),
            "extrapolation": scrambled(BEYOND, unseen, DELAYS),
        },
    )


def _untrained(benchmark: TaskBenchmark) -> tuple[float, ...]:
    """The wirings that training never draws, given a benchmark in which the wiring alone decides."""
    family: Family = benchmark.family
    number = torch.arange(wirings(SENSORS), dtype=torch.float32)
    task = family.sample(len(number), generator=torch.Generator().manual_seed(0)) | {"wiring": number}
    return tuple(number[~benchmark.is_training(task)].tolist())
