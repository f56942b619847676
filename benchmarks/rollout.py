"""Is collecting through the library as fast as a loop written by hand for one environment?

    python benchmarks/rollout.py [--rows 1024] [--steps 200] [--repeats 7] [--output results/...json]

Both sides step the same batched CartPole with the same 2x64 tanh policy and record the same tensors. The
hand-written side has the physics, the policy and the recording inlined in one function: what somebody
would write who needs nothing else. The two take turns, and the ratio of each pair is reported, so that a
drift of the machine's speed does not matter. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from envs import CartPole, LogRange, Range
from experiments.runs import prepare_machine
from metarl import MLP, CategoricalPolicy, collect

TASKS = 16


def by_hand(task: dict[str, Tensor], weights: list[Tensor], rows: tuple[int, int], steps: int) -> list[Tensor]:
    """The whole rollout in one function: Gymnasium's CartPole equations, a 2x64 tanh policy, sampling, recording."""
    w1, b1, w2, b2, w3, b3 = weights
    gravity, cart, pole, half = (
        task[name].unsqueeze(1) for name in ("gravity", "cart_mass", "pole_mass", "half_length")
    )
    push = (task["force_magnitude"] * task["polarity"]).unsqueeze(1)
    total, moment, tau = cart + pole, pole * half, task["time_step"].unsqueeze(1)
    x, x_dot, theta, theta_dot = (torch.rand(4, *rows) * 0.1 - 0.05).unbind(0)
    noise = torch.rand(steps, *rows)
    alive = torch.ones(rows, dtype=torch.bool)
    columns: list[list[Tensor]] = [[], [], [], [], []]
    limit = 12 * 2 * math.pi / 360
    for t in range(steps):
        observation = torch.stack((x, x_dot, theta, theta_dot), -1)
        hidden = torch.tanh(observation @ w1.T + b1)
        hidden = torch.tanh(hidden @ w2.T + b2)
        logits = hidden @ w3.T + b3
        action = (noise[t] < torch.sigmoid(logits[..., 1] - logits[..., 0])).long()
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


def measure(rows: int, steps: int, repeats: int) -> dict[str, object]:
    """Steps per second of both sides, and their ratio pair by pair."""
    generator = torch.Generator().manual_seed(0)
    # a pole that hardly ever falls within the horizon: both sides take every step
    family = CartPole(steps, gravity=Range(0.1, 0.2), force_magnitude=LogRange(0.01, 0.03))
    task = family.sample(TASKS, generator=generator)
    policy = CategoricalPolicy(MLP(4, [64, 64], 2, generator=generator))
    weights = [leaf.detach() for leaf in policy.initial().values()]
    shape = (TASKS, rows // TASKS)

    def library() -> int:
        batch = collect(policy, policy.initial(), family, task, shape[1], generator=generator)
        return batch.mask.shape[1] * rows

    @torch.no_grad()
    def hand() -> int:
        return by_hand(task, weights, shape, steps)[0].shape[1] * rows

    pairs = []
    for repeat in range(repeats + 1):
        pair = (speed(library), speed(hand))
        if repeat:  # the first warms up
            pairs.append(pair)
    ratios = sorted(a / b for a, b in pairs)
    return {
        "rows": rows,
        "steps": steps,
        "library steps/s": statistics.median(a for a, _ in pairs),
        "by hand steps/s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio min": ratios[0],
        "ratio max": ratios[-1],
    }


def speed(run: Callable[[], int]) -> float:
    """Environment steps per second of one call."""
    start = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 400, 1024, 16384])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    prepare_machine()
    table = [measure(rows, arguments.steps, arguments.repeats) for rows in arguments.rows]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    print("  rows   library steps/s   by hand steps/s   ratio (min, max)")
    for line in table:
        print(
            f"{line['rows']:>6} {line['library steps/s']:>17,.0f} {line['by hand steps/s']:>17,.0f}"
            f"   {line['ratio']:.2f} ({line['ratio min']:.2f}, {line['ratio max']:.2f})"
        )
    if arguments.output:
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.platform()}
        arguments.output.write_text(json.dumps({"machine": machine, "table": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
