"""The same numbers on a GPU: noise from a CPU generator is common to both devices, and so is what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments import runs
from experiments.build import build
from experiments.config import Config
from experiments.names import INNER_LOSSES
from experiments.presets import PRESETS
from experiments.streams import stream
from metarl import explore
from metarl.optimizers import meta_loss
from metarl.rollouts import to_device
from tests.test_rules import RULES, at, some_params

CASES = {
    "navigation": Config(hidden=(16,), tasks=3, episodes=4, query_episodes=4, horizon=10),
    "cartpole": Config(benchmark="cartpole-wide", hidden=(16,), activation="tanh", tasks=3, episodes=4, horizon=20),
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_meta_gradient_is_the_same_on_both_devices(name: str, steps: int) -> None:
    gradients = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        setup = build(CASES[name].model_copy(update={"steps": steps}), device)
        task = to_device(setup.benchmark.sample("train", 3, generator=stream(0, "tasks")), device)
        trace = explore(setup.learner, setup.benchmark.family, task, setup.plan, generator=stream(0, "noise"))
        loss = meta_loss(setup.learner, trace)
        used = [p for n, p in setup.learner.named_parameters() if steps or n.startswith("policy")]
        gradients.append(torch.cat([g.reshape(-1).cpu() for g in torch.autograd.grad(loss, used)]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    assert bool(gradients[0].any())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_runs_on_the_gpu_and_resumes_its_generator() -> None:
    setup = build(CASES["cartpole"], torch.device("cuda"))
    state = setup.generator.get_state()
    _, metrics = next(setup.train())
    assert metrics["env_steps"] > 0 and all(p.device.type == "cuda" for p in setup.learner.parameters())
    assert not torch.equal(state, setup.generator.get_state())
    setup.generator.set_state(state)
    assert torch.equal(state, setup.generator.get_state())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_two_deterministic_runs_are_equal(name: str, compiled: bool) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    try:
        runs.prepare_machine(deterministic=True)
        ends = []
        for _ in range(2):
            setup = build(CASES[name].model_copy(update={"compile": compiled}), torch.device("cuda"))
            for iteration, _metrics in setup.train():
                if iteration == 3:
                    break
            ends.append(torch.cat([p.detach().reshape(-1) for p in setup.learner.parameters()]))
        assert torch.equal(*ends) and bool(ends[0].isfinite().all())
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", RULES)
def test_every_rule_steps_alike_on_both_devices(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        params, grads = (to_device(some_params(seed), device) for seed in (0, 1))
        rule = RULES[name](some_params(0)).double().to(device)
        step = at(grads, params)
        state = rule.init(params)
        for _ in range(2):
            updates, state = rule.update(step, state)
        found.append({key: u.detach().cpu() for key, u in updates.items()})
    for key, u in found[0].items():
        torch.testing.assert_close(u, found[1][key], rtol=1e-9, atol=1e-12)


class Refusing(TorchDispatchMode):
    """On any device, refuses what a GPU refuses of floating-point numbers once equal bits are asked for.

    The list is that of `torch.use_deterministic_algorithms`, as far as it could concern this project.
    """

    REFUSED = ("cumsum", "cumsum_", "kthvalue", "median", "nanmedian", "histc", "put_")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        if name in self.REFUSED and args[0].is_floating_point():
            raise RuntimeError(f"{name} does not have a deterministic implementation on a GPU")
        return function(*args, **(kwargs or {}))


DETERMINISTIC = {
    **{f"preset {name}": preset for name, (_, preset) in PRESETS.items()},
    **{f"loss {name}": Config(inner_loss=name) for name in INNER_LOSSES},
    **{name: Config(benchmark=name) for name in ("tabular-random", "acrobot-packer", "navigation-grid")},
}
SMALL = {"hidden": (8,), "tasks": 2, "episodes": 4, "query_episodes": 4, "horizon": 12, "epochs": 2, "minibatches": 1}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_training_does_nothing_that_a_gpu_asked_for_equal_bits_refuses(name: str) -> None:
    config = DETERMINISTIC[name]
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        setup = build(config.model_copy(update=SMALL | {"steps": min(config.steps, 2)}), torch.device("cpu"))
        with Refusing():
            _, metrics = next(setup.train())
    finally:
        torch.use_deterministic_algorithms(before)
    assert metrics["env_steps"] > 0
    with Refusing(), pytest.raises(RuntimeError, match="cumsum"):
        torch.ones(2).cumsum(0)
