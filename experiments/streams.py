"""Random streams by purpose."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """An independent random stream for each purpose, so that using one more never shifts another."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
