"""CartPole with all constants hidden and widely varied, and the same with scrambled sensors; both of this project."""

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

# Controllable at every corner of the range: a controller that knows the constants balances for 500 steps there.
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
# All constants outside the training range at once. The weakest push is barely enough inside the range, so it is not
# lowered much further; the same controller fails in about 1 of 1000 episodes here.
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
# The inner part of the training range and its ends: extrapolation from one to the other is as hard as from the
# training range to the constants outside.
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
    """Hidden, widely varied sign, strength, gravity, masses, length and frictions, and a delay of 0 or 1 step.

    Strengths are log-uniform from a third to three times the default 10 N. In every training task, a controller that
    knows the constants can balance the pole for 500 steps. A range of pole lengths is a hole; extrapolation lies
    outside the training range in every constant except sign and delay.
    """
    hole = WITHIN | {"half_length": Range(0.6, 0.75)}
    return TaskBenchmark(
        "cartpole-all",
        _delayed(horizon, WITHIN),
        {"interpolation": _delayed(horizon, hole), "extrapolation": _delayed(horizon, BEYOND)},
    )


def cartpole_all_centred(horizon: int = 500) -> TaskBenchmark:
    """`cartpole_all` with less reward for steps closer to the limits: to score adapted policies in (``scored_in``).

    In ``cartpole_all``, agents that balance score the same however close they come to the limits; outside its training
    range this margin is needed.
    """
    family = CentredReward(_delayed(horizon, WITHIN), {"x": POSITION_LIMIT, "theta": ANGLE_LIMIT})
    return TaskBenchmark("cartpole-all-centred", family)


def cartpole_all_inner(horizon: int = 500) -> TaskBenchmark:
    """Training on the inner part of ``cartpole_all``'s training range, extrapolation to the ends of that range.

    It serves to choose settings by how well they extrapolate, without using the test splits of ``cartpole_all``.
    """
    return TaskBenchmark("cartpole-all-inner", _delayed(horizon, INNER), {"extrapolation": _delayed(horizon, ENDS)})


def _delayed(horizon: int, ranges: dict[str, Distribution]) -> Delayed:
    return Delayed(CartPole(horizon, **ranges), delay=DELAYS)


def cartpole_scrambled(horizon: int = 500) -> TaskBenchmark:
    """``cartpole_all`` with sensors in any order and with any signs: 768 wirings, including the sign of the actuator.

    The wiring of the sensors alone decides the split, whatever the physics: no held-out split contains a wiring seen
    in training. Validation and test have new wirings with the physics of training. Interpolation has new wirings and a
    range of pole lengths that training lacks. Extrapolation has new wirings and physics outside the training range in
    every constant except sign and delay.

    Half of the 768 are duplicates: with all sensors and the actuator flipped, CartPole behaves as before. Training has
    both polarities, so a wiring and the one with all signs flipped belong to the same split. Of 192 such pairs, 151
    are for training, 19 for validation and 22 for test.
    """
    name, count = "cartpole-scrambled", wirings(SENSORS)

    def scrambled(ranges: dict[str, Distribution], wiring: Distribution, delay: Distribution) -> RewiredSensors:
        return RewiredSensors(Delayed(CartPole(horizon, **ranges), delay=delay), wiring)

    # A gap in the range instead of cartpole_all's hole: a hole consists of cells, and lengths have only one here.
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
    """Return the wirings that training never draws, given a benchmark whose splits depend on the wiring alone."""
    family: Family = benchmark.family
    number = torch.arange(wirings(SENSORS), dtype=torch.float32)
    task = family.sample(len(number), generator=torch.Generator().manual_seed(0)) | {"wiring": number}
    return tuple(number[~benchmark.is_training(task)].tolist())
