"""Exponentiated gradient as a torch optimizer: positive parameters stay positive (Kivinen & Warmuth 1997)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class ExponentiatedGradient(torch.optim.Optimizer):
    """``p ← p · exp(-η ĝ)``, for meta-learned step sizes, which it keeps positive without a reparameterisation.

    ĝ is the gradient divided by its root mean square over time, as in RMSprop and Adam, because the meta-gradients of
    single step sizes differ widely in magnitude. η is thus a change of the log-rate. One step changes a rate by a
    factor between ``exp(-1)`` and ``exp(1)``. (Without normalisation: Amid et al. 2022, arXiv:2202.00145, for step
    sizes within training.)
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.03, *, decay: float = 0.99) -> None:
        """Build the optimizer for positive parameters.

        Args:
            params: tensors or groups of tensors, as for any torch optimizer. They must be the step sizes themselves.
                A logarithm or logit that starts positive would be kept positive as well, and the number it stands for
                above one (logarithm) or one half (logit).
            lr: η, the change of the log-rate per step.
            decay: decay rate of the mean square.

        Raises:
            ValueError: a step size or decay out of range, or a parameter that is not positive everywhere.
        """
        if not (0.0 < lr < float("inf") and 0.0 <= decay < 1.0):
            raise ValueError(f"expected lr > 0 and decay in [0, 1), got {(lr, decay)}")
        super().__init__(params, {"lr": lr, "decay": decay})
        for group in self.param_groups:
            for p in group["params"]:
                if not bool((p > 0).all()):
                    raise ValueError(
                        "exponentiated gradient: expected positive parameters, got other values in one of shape "
                        f"{tuple(p.shape)}; use it for step sizes that are free and start above zero"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step on the gradients in ``.grad``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group["lr"], group["decay"])
        return loss

    def _update(self, p: torch.Tensor, gradient: torch.Tensor, lr: float, decay: float) -> None:
        state = self.state[p]
        if not state:
            state["step"], state["square"] = 0, torch.zeros_like(p)
        state["step"] += 1
        state["square"].mul_(decay).addcmul_(gradient, gradient, value=1.0 - decay)
        size = (state["square"] / (1.0 - decay ** state["step"])).sqrt().clamp_min(1e-12)
        p.mul_((-lr * gradient / size).clamp(-1.0, 1.0).exp())
