"""Command lines: where the configuration comes from, and refusal of flags that have no effect."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import compare, estimators, finetune, train
from experiments.build import build
from experiments.cli import given, parse_config, preset, refuse_unread
from experiments.config import Config
from experiments.errors import InputError

SMALL = Config(hidden=(4,), tasks=2, episodes=2, query_episodes=2, horizon=3)


@dataclass(frozen=True)
class Nothing:
    """No options."""

    output: Path | None = None


def parsed(*argv: str) -> Config:
    return parse_config(Nothing, argv, "")[0]


def written(file: Path, **changes: Any) -> str:
    file.write_text(json.dumps(SMALL.model_dump(mode="json") | changes))
    return str(file)


def test_a_preset_or_a_file_is_the_start_and_flags_change_it(tmp_path: Path) -> None:
    file = written(tmp_path / "config.json", rule="maml", scored_in=None)
    assert parsed(file) == SMALL.model_copy(update={"rule": "maml"})
    assert parsed(file, "--rule", "per-layer", "--hidden", "8", "9", "--no-normalize") == SMALL.model_copy(
        update={"rule": "per-layer", "hidden": (8, 9), "normalize": False}
    )
    assert parsed("cartpole-polarity") == preset("cartpole-polarity") != Config()


def test_whole_numbers_are_read_however_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed("cartpole-polarity", "--env-steps", "1e6", "--tasks=2_0", "--hidden", "8", "1.6e1", "--seed", "7")
    assert (config.env_steps, config.tasks, config.hidden, config.seed) == (1_000_000, 20, (8, 16), 7)
    assert all(type(value) is int for value in (config.env_steps, config.tasks, *config.hidden))
    for wrong in ("1.5", "1e-3", "inf", "nan", "many"):
        with pytest.raises(SystemExit):
            parsed("cartpole-polarity", "--env-steps", wrong)
        assert "expected a whole number, such as 20 or 1e6, got" in " ".join(capsys.readouterr().err.split())


def test_an_older_file_that_lacks_a_field_has_its_default(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"rate": 0.5}')
    assert parsed(str(tmp_path / "old.json")) == Config(rate=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "configuration: Invalid JSON"),
        ("[1]", "configuration: Input should be an object, got [1]"),
        ('{"rat": 0.5}', "rat: Extra inputs are not permitted"),
        ('{"rate": NaN}', "rate: Input should be a finite number"),
        ('{"rule": 3}', "rule: Input should be a valid string"),
        (b"\xff\xfe", "configuration: Invalid JSON"),
        ("[" * 100_000, "recursion limit exceeded"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(
    text: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert train.main([str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}: expected a configuration, such as a run's config.json; ")
    assert message in error and error.count("\n") == 1 and len(error) < 400


@pytest.mark.parametrize("field", ["benchmark", "scored_in", "policy", "rule", "inner_loss", "outer_loss"])
def test_a_file_has_nothing_imported_that_no_flag_names(field: str, tmp_path: Path) -> None:
    file, flag = written(tmp_path / "theirs.json", **{field: "hostile:boom"}), f"--{field.replace('_', '-')}"
    with pytest.raises(
        InputError, match=f"theirs.json imports hostile:boom, which is not part of metarl; allow it with {flag}"
    ):
        parsed(file)
    assert getattr(parsed(file, flag, "hostile:boom"), field) == "hostile:boom"
    assert getattr(parsed(file, f"{flag}=mine:one"), field) == "mine:one"


def test_a_command_line_begins_with_a_preset_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--seed", "1"], ["--rule", "maml", "navigation-fixed"]):
        assert train.main(argv) == 2
        assert "error: expected a preset first: cartpole-polarity" in capsys.readouterr().err
    assert train.main([str(tmp_path)]) == 2
    assert (
        f"{tmp_path} is a folder, expected a preset or a file; start from {tmp_path / 'config.json'}, or continue"
        in capsys.readouterr().err
    )
    file = written(tmp_path / "config.json")
    assert train.main(["--resume", file]) == train.main([file, "--output", file]) == 2
    assert capsys.readouterr().err.count(f"{file} is a file; expected a folder") == 2


IDLE: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    ({"rule": "maml"}, {"rate_lr", "parameterisation"}),
    ({"rule": "maml", "inner_loss": "learned-reward"}, {"parameterisation"}),
    ({"meta_optimizer": "reptile"}, {"outer_loss", "entropy_penalty", "clip"}),
    ({"meta_optimizer": "evolution"}, {"outer_loss", "clip", "query_discount", "query_decay", "query_scale"}),
    ({"inner_loss": "dice"}, {"decay", "normalize"}),
]


@pytest.mark.parametrize(("changes", "idle"), IDLE, ids=[str(one) for one, _ in IDLE])
def test_what_is_read_and_comes_to_nothing_is_refused(changes: dict[str, Any], idle: set[str]) -> None:
    read = build(SMALL.model_copy(update=changes), torch.device("cpu")).read
    assert idle <= set(Config.model_fields) - read
    assert {"tasks", "query_episodes", "hidden", "log_std", "seed", "benchmark"} <= read


@pytest.mark.parametrize(("changes", "idle"), IDLE[1:], ids=[str(one) for one, _ in IDLE[1:]])
def test_what_is_refused_changes_nothing(changes: dict[str, Any], idle: set[str]) -> None:
    other = {"outer_loss": "surrogate", "normalize": False, "query_scale": "tasks", "parameterisation": "positive"}

    def learned(config: Config) -> torch.Tensor:
        setup = build(config, torch.device("cpu"))
        for iteration, _ in setup.train():
            if iteration == 2:
                break
        return torch.cat([p.detach().reshape(-1) for p in setup.learner.parameters()])

    base = SMALL.model_copy(update=changes)
    for field in idle:
        assert torch.equal(learned(base), learned(base.model_copy(update={field: other.get(field, 0.31)}))), field


def test_flags_are_found_however_they_are_written() -> None:
    argv = ["navigation-fixed", "--rate=1", "--max-kl", "2", "--max_rate", "3", "--no-normalize", "--output", "rule"]
    assert given(argv) == {"rate", "max_kl", "max_rate", "normalize"}
    assert given([]) == given(["rate", "-5"]) == set()


def test_what_nobody_reads_is_refused() -> None:
    read = build(SMALL, torch.device("cpu")).read
    unread = {"max_rate", "online_rate", "signal_hidden", "signal_actions", "signal_effects", "perturbation", "pairs"}
    assert set(Config.model_fields) - read == unread | {"max_kl"}
    for name in unread:
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: unused with these settings"):
            refuse_unread({name, "rate"}, read)
    refuse_unread({"rate", "seed", "env_steps"}, read)


@pytest.mark.parametrize("name", ["rl2", "ppo-from-scratch", "ppo-randomized", "ppo-fine-tuned", "recurrent-ppo"])
def test_a_contender_with_a_network_of_its_own_refuses_another(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["cartpole-polarity", "--policy", "examples.own_policy:residual", "--rules", "maml", name]
    assert compare.main([*argv, "--output", str(tmp_path / "out")]) == 2
    assert f"{name} has its own network: expected --policy mlp" in capsys.readouterr().err


def test_every_script_of_settings_refuses_what_nothing_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for script in (estimators, finetune):
        assert script.main(["navigation-fixed", "--max-kl", "0.3", "--output", str(tmp_path / "out")]) == 2
        assert "--max-kl: unused with these settings" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_some_contender_reads_can_be_given_to_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["navigation-fixed", "--output", str(tmp_path / "out"), "--online-rate", "0.1", "--rules", "maml"]
    assert compare.main(argv) == 2
    assert "--online-rate: unused with these settings" in capsys.readouterr().err
    assert compare.main([*argv, "meta-sgd", "--rule", "per-layer"]) == 2
    assert (
        "--rule has no effect, since every contender here sets its own rule; name rules with --rules"
        in capsys.readouterr().err
    )
    assert compare.main([*argv, "--rate", "0.1"]) == 2
    assert "--rate: step sizes are tuned; give a grid of them, such as --rates 0.1 0.3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

    class Begun(Exception):
        """Nothing was refused."""

    def begin(config: Config, names: list[str], options: compare.Options) -> None:
        raise Begun

    monkeypatch.setattr(compare, "tune", begin)
    for last in ("hypergradient", "maml"):  # whoever comes last
        with pytest.raises(Begun):
            compare.main([*argv, "hypergradient", last])
