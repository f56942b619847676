"""A GPU gives the same numbers: noise from a CPU generator is common to both devices, and so are the results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.wrappers import Trials
from experiments import build as building
from experiments import evaluate as evaluating
from experiments import learned, runs, train
from experiments.build import build
from experiments.config import Config
from experiments.evaluate import Protocol
from experiments.names import INNER_LOSSES, META_OPTIMIZERS
from experiments.presets import PRESETS
from experiments.streams import stream
from metarl import explore
from metarl.memory import MemoryPlan, MemoryTrainer, memory_policy, score_trials, train_memory
from metarl.optimizers import meta_loss
from metarl.rollouts import to_device
from tests.elsewhere import ELSEWHERE, Rehearsal
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


REHEARSED = {
    **{f"preset {name}": preset for name, (_, preset) in PRESETS.items()},
    **{f"loss {name}": Config(inner_loss=name) for name in INNER_LOSSES if name != "warm-start"},  # see `elsewhere`
    **{name: Config(benchmark=name) for name in ("tabular-random", "acrobot-packer", "navigation-grid")},
    **{name: Config(rule=name) for name in ("lstm-schedule", "rl-schedule", "meta-curvature", "whitened", "foresight")},
    **{name: Config(meta_optimizer=name) for name in META_OPTIMIZERS},
}
SMALL = {"hidden": (8,), "tasks": 2, "episodes": 4, "query_episodes": 4, "horizon": 12, "epochs": 2, "minibatches": 1}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rehearsal]:
    """A rehearsal of what is built on `ELSEWHERE`, with random numbers drawn here: there is no generator elsewhere."""
    for user in (building, evaluating, learned):
        monkeypatch.setattr(user, "stream", lambda seed, purpose, device="cpu": stream(seed, purpose))
    monkeypatch.setattr(building.Setup, "device", property(lambda setup: next(setup.learner.parameters()).device))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield Rehearsal()
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("name", REHEARSED)
def test_training_and_adapting_do_nothing_that_a_gpu_would_refuse(name: str, elsewhere: Rehearsal) -> None:
    """Tensors of two devices, or operations that are refused once equal bits are asked for; and the numbers stay."""
    config = REHEARSED[name].model_copy(update=SMALL | {"steps": min(REHEARSED[name].steps, 2)})
    with elsewhere:
        away = build(config, ELSEWHERE)
        _, metrics = next(away.train())
        scores = evaluating.measure(away, Protocol("test", tasks=2, steps=1, episodes=4))
    assert {p.device for p in away.learner.parameters()} == {ELSEWHERE}
    home = build(config, torch.device("cpu"))
    _, expected = next(home.train())
    assert {k: v for k, v in metrics.items() if "time" not in k} == pytest.approx(
        {k: v for k, v in expected.items() if "time" not in k}, rel=1e-3, abs=1e-6
    )
    expected_scores = evaluating.measure(home, Protocol("test", tasks=2, steps=1, episodes=4))
    assert np.array(scores["sampled"]) == pytest.approx(np.array(expected_scores["sampled"]), rel=1e-3)


@pytest.mark.parametrize("name", ["bandit-5", "navigation-fixed"])
def test_a_memory_is_trained_and_scored_without_what_a_gpu_would_refuse(name: str, elsewhere: Rehearsal) -> None:
    benchmark = building.build_benchmark(Config(benchmark=name, horizon=6))
    family = Trials(benchmark.family, 3)
    plan = MemoryPlan(tasks=3, trials=4, discount=0.99, decay=0.95, segment=8, minibatch=8, epochs=2)

    def scores(device: torch.device) -> Tensor:
        agent = memory_policy(family, units=8, log_std=0.0, generator=stream(0, "initialization")).to(device)
        trainer, noise = MemoryTrainer(agent, plan, lr=1e-3), stream(0, "noise")
        next(train_memory(trainer, family, benchmark, generator=noise, task_generator=stream(0, "tasks")))
        task = benchmark.sample("test", 2, generator=stream(0, "held out"))
        return torch.stack(score_trials(agent, family, task, 3, generator=noise)).cpu()

    with elsewhere:
        away = scores(ELSEWHERE)
    torch.testing.assert_close(away, scores(torch.device("cpu")), rtol=1e-3, atol=1e-5)


def test_a_run_is_saved_resumed_and_opened_where_there_is_no_such_device(
    elsewhere: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [word for field in ("tasks", "episodes", "query_episodes", "horizon") for word in (flag(field), "4")]
    more = ["--hidden", "8", "--minibatches", "1", "--env-steps", "300", "--validate-every", "1", "--no-evaluate"]
    with monkeypatch.context() as patched, elsewhere:
        patched.setattr(runs, "pick_device", lambda _: ELSEWHERE)
        assert train.main(["navigation-fixed-best", *small, *more, "--output", str(tmp_path / "run")]) == 0
        assert train.main(["--resume", str(tmp_path / "run"), "--env-steps", "600", "--no-evaluate"]) == 0
    assert elsewhere.looks
    assert train.main(["navigation-fixed-best", *small, *more, "--output", str(tmp_path / "home")]) == 0
    assert train.main(["--resume", str(tmp_path / "home"), "--env-steps", "600", "--no-evaluate"]) == 0
    away, home = (dict(runs.load(tmp_path / name)[0].learner.named_parameters()) for name in ("run", "home"))
    torch.testing.assert_close(away, home, rtol=1e-3, atol=1e-5)


def flag(field: str) -> str:
    """As a command line has a field of the configuration."""
    return "--" + field.replace("_", "-")


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (3, 1), (1, 2)])
def test_an_iteration_waits_for_a_device_as_seldom_as_it_can(epochs: int, steps: int, elsewhere: Rehearsal) -> None:
    """At a rollout of up to twenty steps twice for whether it is over, and once for whether it is finite; once at every
    adapted policy, at every epoch's loss and gradient, and at what came of it all.
    """  # noqa: D205
    config = Config(**SMALL).model_copy(update={"epochs": epochs, "steps": steps, "horizon": 20})
    with elsewhere:
        iterations = build(config, ELSEWHERE).train()
        next(iterations)
        before = elsewhere.looks
        next(iterations)
    assert elsewhere.looks - before == 3 * (steps + 1) + steps + epochs + 1


def test_a_rehearsal_refuses_what_a_gpu_refuses(elsewhere: Rehearsal) -> None:
    with elsewhere:
        there = torch.ones(3, device=ELSEWHERE)
        assert (there + 1.0).sum().item() == 6.0 and elsewhere.looks == 1
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="cumsum does not have a deterministic"):
            there.cumsum(0)
        assert there.to("cpu").cumsum(0).tolist() == [1.0, 2.0, 3.0] and elsewhere.looks == 2
        assert len(there[there > 0.0]) == 3 and elsewhere.looks == 3  # how many there are is not known before
