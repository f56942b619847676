"""Golden numbers: a small fixed budget still learns to adapt, so that an update that breaks learning is noticed.

The bounds are far from the measured values (in brackets), because rounding differs between machines.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.build import build
from experiments.config import Config
from experiments.evaluate import Protocol, measure
from experiments.presets import PRESETS


def curve(config: Config, steps: int = 1) -> list[float]:
    """Mean held-out return after 0..K steps of a learner trained within the configuration's budget."""
    torch.set_num_threads(1)
    setup, spent = build(config, torch.device("cpu")), 0
    for _, metrics in setup.train():
        spent += int(metrics["env_steps"])
        if spent >= config.env_steps:
            break
    result = measure(setup, Protocol(tasks=20, steps=steps, score_episodes=10))
    return [float(x) for x in np.mean(result["sampled"], axis=0)]


def test_one_gradient_step_finds_out_which_way_the_actuator_pushes() -> None:
    config = PRESETS["cartpole-polarity"][1].model_copy(
        update={"env_steps": 400_000, "horizon": 200, "hidden": (32, 32)}
    )
    before, after = curve(config)
    assert before < 40  # [22.7]
    assert after > 90  # [106.5]


@pytest.mark.parametrize("rule", ["meta-sgd", "maml"])
def test_one_gradient_step_turns_towards_the_goal(rule: str) -> None:
    config = PRESETS["navigation-fixed"][1].model_copy(
        update={
            "rule": rule,
            "rate": 0.3 if rule == "meta-sgd" else 1.0,
            "horizon": 30,
            "env_steps": 1_000_000,
            "hidden": (32,),
        }
    )
    before, after = curve(config)
    assert after > before + 3 and after > -7  # [-11.0 to -4.3 (Meta-SGD) and -5.0 (MAML)]
