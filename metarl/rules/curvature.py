"""Learned linear maps of the gradient, to be put before a rule with `Chain`; they mix gradient entries."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule, shapes_of
from metarl.rules.rates import Table
from metarl.trees import Tree


class MetaCurvature(UpdateRule):
    """One learned matrix for every axis of every parameter (Meta-Curvature, Park & Oliva 2019, arXiv:1902.03356).

    A weight's gradient ``G [out, in]`` becomes ``M_out G M_inᵀ``, a bias's becomes ``M_out g``, and a 0-d parameter's
    is unchanged. All matrices start as the identity, so the gradient is passed on unchanged at first.
    """

    maps_gradients = True

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        """Create identity matrices for the axes of ``params``."""
        super().__init__()
        self.made_for = shapes_of(params)
        self.maps = Table(
            {
                f"{name}:{axis}": torch.eye(size, dtype=leaf.dtype, device=leaf.device)
                for name, leaf in params.items()
                for axis, size in enumerate(leaf.shape)
            }
        )

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the mapped gradient; see `UpdateRule.update`."""
        maps, mapped = self.maps(), {}
        for name, g in step.grads.items():
            for axis in range(g.dim()):
                g = torch.tensordot(g, maps[f"{name}:{axis}"], ([axis], [1])).movedim(-1, axis)
            mapped[name] = g
        return mapped, state


class BlockDiagonal(UpdateRule):
    """One learned matrix for every block of consecutive entries of a parameter; all start as the identity."""

    maps_gradients = True

    def __init__(self, params: Mapping[str, Tensor], *, size: int = 16) -> None:
        """Divide parameters into blocks of ``size`` entries; the last block is padded with zeros.

        Raises:
            ValueError: ``size`` is below 1.
        """
        super().__init__()
        if size < 1:
            raise ValueError(f"blocks need a size of at least 1, got {size}")
        self.size, self.made_for = size, shapes_of(params)
        self.maps = Table({name: self._identity(leaf) for name, leaf in params.items()})

    def _identity(self, leaf: Tensor) -> Tensor:
        blocks = -(-leaf.numel() // self.size)
        return torch.eye(self.size, dtype=leaf.dtype, device=leaf.device).repeat(blocks, 1, 1)

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the mapped gradient; see `UpdateRule.update`."""
        maps = self.maps()
        return {name: self._mapped(g, maps[name]) for name, g in step.grads.items()}, state

    def _mapped(self, g: Tensor, maps: Tensor) -> Tensor:
        filled = nn.functional.pad(g.reshape(-1), (0, maps.shape[0] * self.size - g.numel()))
        blocks = filled.reshape(-1, self.size, 1)
        return (maps @ blocks).reshape(-1)[: g.numel()].reshape(g.shape)
