"""Track runs with Weights & Biases, an optional extra.

The run's id there is stored in ``wandb.json`` in the run folder, so that a resumed run continues the same one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments import runs
from experiments.config import Config
from experiments.errors import InputError
from metarl.metrics import Viewer

NAME, FILE = "Weights & Biases", "wandb.json"


def viewers(folder: Path, config: Config, project: str | None) -> dict[str, Callable[[], Viewer]]:
    """Return the viewers that `metarl.metrics.MetricsLog` is to open for a run: none unless it is tracked.

    Args:
        folder: run folder; a project and id that it already records are kept.
        config: configuration, to be shown with the run.
        project: project to track the run in; None continues as before.

    Raises:
        InputError: the run is tracked in another project, or its ``wandb.json`` is damaged.
    """
    file = folder / FILE
    if not file.exists():
        if project is None:
            return {}
        runs.write_json(file, {"project": project, "id": secrets.token_hex(8)})
    stored = _read(file)
    if project not in (None, stored["project"]):
        raise InputError(
            f"{folder} is tracked in project {stored['project']!r}, got --track {project}; leave --track out to "
            f"continue there, or remove {file} to start again"
        )
    return {NAME: lambda: WeightsAndBiases(folder, config, **stored)}


def _read(file: Path) -> dict[str, str]:
    try:
        stored = json.loads(file.read_text())
        return {"project": str(stored["project"]), "id": str(stored["id"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged; remove it to start tracking again") from error


class WeightsAndBiases:
    """A `metarl.metrics.Viewer` for Weights & Biases, which ignores rows that a resumed run repeats."""

    def __init__(self, folder: Path, config: Config, project: str, id: str) -> None:
        try:
            import wandb  # imported only when used: it takes seconds and may not be installed
        except ImportError as error:
            raise ImportError("wandb is not installed; pip install -e '.[track]'") from error
        self._wandb = wandb
        self._run: Any = wandb.init(
            project=project,
            id=id,
            resume="allow",
            name=folder.name,
            dir=str(folder),
            config=config.model_dump(mode="json"),
        )

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def histogram(self, step: int, name: str, values: npt.NDArray[np.float64]) -> None:
        self._run.log({name: self._wandb.Histogram(values)}, step=step)

    def image(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
