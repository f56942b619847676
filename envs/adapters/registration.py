"""Our families under Gymnasium ids: ``gymnasium.make("metarl/CartPole-v0", gravity=12.0)``.

Importing this package registers nothing; `register` does. Importing ``envs.adapters.registered`` calls it, so that a
program that does not import this package can use ``gymnasium.make("envs.adapters.registered:metarl/CartPole-v0")``.
"""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from ..acrobot import Acrobot
from ..bandits import BernoulliBandit
from ..benchmarks import BENCHMARKS
from ..cartpole import CartPole
from ..checks import close_to
from ..family import Family
from ..grid_navigation import GridNavigation
from ..mountain_car import ContinuousMountainCar, MountainCar
from ..navigation import Navigation
from ..pendulum import Pendulum
from ..point_mass import PointMass
from ..ring_navigation import RingNavigation
from ..splits import TaskBenchmark
from ..tabular import TabularMDP
from ..walled_navigation import WalledNavigation
from .single import FamilyEnv, Observation
from .sources import Source, Values
from .vector import FamilyVectorEnv

NAMESPACE, VERSION = "metarl", 0

FAMILIES: dict[str, type[Family]] = {
    "Acrobot": Acrobot,
    "BernoulliBandit": BernoulliBandit,
    "CartPole": CartPole,
    "ContinuousMountainCar": ContinuousMountainCar,
    "GridNavigation": GridNavigation,
    "MountainCar": MountainCar,
    "Navigation": Navigation,
    "Pendulum": Pendulum,
    "PointMass": PointMass,
    "RingNavigation": RingNavigation,
    "TabularMDP": TabularMDP,
    "WalledNavigation": WalledNavigation,
}


def register() -> tuple[str, ...]:
    """Register every family with Gymnasium; calling it again changes nothing.

    Returns:
        The ids, such as ``"metarl/CartPole-v0"``. Their keyword arguments are those of `make_single`. The specs have
        no time limit, because the family's horizon applies, which may differ between benchmarks.
    """
    ids = {f"{NAMESPACE}/{name}-v{VERSION}": name for name in FAMILIES}
    for env_id, name in ids.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point=f"{__name__}:make_single",
                vector_entry_point=f"{__name__}:make_vector",
                kwargs={"family": name},
            )
    return tuple(ids)


def make_single(
    family: str,
    benchmark: TaskBenchmark | str | None = None,
    split: str = "train",
    task: Values | None = None,
    render_mode: str | None = None,
    **constants: Any,
) -> gymnasium.Env[Observation, Any]:
    """Make one environment; the entry point of ``gymnasium.make``.

    The time limit is ``max_episode_steps`` of ``gymnasium.make`` or, without it, the family's horizon.

    Args:
        family: a name in `FAMILIES`; set by the id.
        benchmark: draws the tasks, in place of constants: a benchmark of this family, or a name in
            ``envs.BENCHMARKS``.
        split: split of the benchmark.
        task: constants to pin; with a benchmark, the others are drawn so that the task belongs to the split.
        render_mode: None or ``"rgb_array"``.
        constants: numbers or distributions for the family's constants, and its settings, such as ``reward="squared"``.

    Raises:
        ValueError: the benchmark is unknown, belongs to another family or is combined with constants; ``horizon`` is
            given; or see the family and ``FamilyEnv``.
    """
    source = _source(family, benchmark, constants)
    env = FamilyEnv(source, task, split=split, max_episode_steps=-1, render_mode=render_mode)
    horizon = (source if isinstance(source, Family) else source.family).horizon
    return env if _limited(inspect.currentframe()) else TimeLimit(env, horizon)


# Gymnasium reads the render modes here to decide whether it can add a wrapper that collects frames.
make_single.metadata = FamilyEnv.metadata  # type: ignore[attr-defined]


def make_vector(
    num_envs: int,
    family: str,
    benchmark: TaskBenchmark | str | None = None,
    split: str = "train",
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    **constants: Any,
) -> FamilyVectorEnv:
    """Make a vector environment; the entry point of ``gymnasium.make_vec`` and the counterpart of `make_single`.

    Args:
        num_envs: number of rows.
        family: a name in `FAMILIES`; set by the id.
        benchmark: draws the tasks, in place of constants.
        split: split of the benchmark.
        autoreset_mode: see ``FamilyVectorEnv``.
        max_episode_steps: time limit; None for the family's horizon.
        render_mode: None or ``"rgb_array"``.
        constants: the family's constants and settings, and optionally ``task``, as in `make_single`.

    Raises:
        ValueError: see `make_single`.
    """
    task = constants.pop("task", None)
    source = _source(family, benchmark, constants)
    return FamilyVectorEnv(
        source,
        num_envs,
        task,
        split=split,
        autoreset_mode=autoreset_mode,
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
    )


def _limited(frame: FrameType | None) -> bool:
    """Return whether the caller of ``frame`` is ``gymnasium.make`` and will itself add a time limit.

    It does not pass the limit on, and a second limit inside its own would cut a longer one short.
    """
    caller = frame.f_back if frame else None
    if caller is None or caller.f_code is not gymnasium.make.__code__:
        return False
    asked = caller.f_locals
    return asked["max_episode_steps"] is not None or asked["env_spec"].max_episode_steps is not None


def _source(family: str, benchmark: TaskBenchmark | str | None, constants: dict[str, Any]) -> Source:
    if "horizon" in constants:
        raise ValueError("horizon: Gymnasium calls the time limit max_episode_steps; give that instead")
    if benchmark is None:
        return FAMILIES[family](**constants)
    if constants:
        raise ValueError(f"{', '.join(constants)}: the benchmark draws the constants; pin them with task={{...}}")
    if isinstance(benchmark, str):
        if benchmark not in BENCHMARKS:
            hint = close_to(benchmark, BENCHMARKS)
            raise ValueError(f"benchmark: there is no {benchmark!r}; {hint}known are {', '.join(BENCHMARKS)}")
        benchmark = BENCHMARKS[benchmark]()
    if type(benchmark.family) is not FAMILIES[family]:
        raise ValueError(
            f"benchmark: {benchmark.name} is a benchmark of {type(benchmark.family).__name__}, not of {family}"
        )
    return benchmark
