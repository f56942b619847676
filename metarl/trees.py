"""Out-of-place operations on parameter trees (plain ``dict[str, Tensor]``, order preserved) and on nested trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def tree_map(function: Callable[..., Tensor], first: Mapping[str, Tensor], *rest: Mapping[str, Tensor]) -> Tree:
    """Apply ``function`` leaf by leaf; all trees must have the names of the first.

    Raises:
        KeyError: a name of ``first`` is missing in one of the others.
    """
    return {name: function(leaf, *(tree[name] for tree in rest)) for name, leaf in first.items()}


def map_leaves(function: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """Apply ``function`` to every tensor of nested dicts and (named) tuples; ``rest`` is nested like ``first``."""
    if isinstance(first, Tensor):
        return function(first, *rest)
    if isinstance(first, dict):
        return {name: map_leaves(function, leaf, *(tree[name] for tree in rest)) for name, leaf in first.items()}
    leaves = [map_leaves(function, *column) for column in zip(first, *rest, strict=True)]
    return type(first)(*leaves) if hasattr(first, "_fields") else tuple(leaves)


def leaves_of(tree: Any) -> list[Tensor]:
    """Return the tensors of nested dicts and tuples, in the order of `map_leaves`."""
    if isinstance(tree, Tensor):
        return [tree]
    found: list[Tensor] = []
    for branch in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(branch, Tensor):
            found.append(branch)
        else:
            found.extend(leaves_of(branch))
    return found


def joined(trees: Sequence[Any]) -> Any:
    """Concatenate nested dicts and tuples of tensors along the first axis; a single one is returned as it is."""
    return map_leaves(lambda *leaves: torch.cat(leaves), *trees) if len(trees) > 1 else trees[0]


def sliced(tree: Any, low: int, high: int) -> Any:
    """Return the slice from ``low`` up to ``high`` along the first axis, without copying."""
    return map_leaves(lambda leaf: leaf[low:high], tree)


def tree_add(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tree:
    """Return ``left + right``, leaf by leaf."""
    return tree_map(torch.add, left, right)


def tree_detach(tree: Mapping[str, Tensor]) -> Tree:
    """Return the same values without their graph."""
    return tree_map(Tensor.detach, tree)


def tree_dot(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Return the scalar product over all leaves, a 0-d tensor."""
    return torch.stack([(leaf * right[name]).sum() for name, leaf in left.items()]).sum()


def global_norm(tree: Mapping[str, Tensor]) -> Tensor:
    """Return the Euclidean norm over all leaves, a 0-d tensor.

    The squared norm is bounded from below, so that the gradient at the origin is zero instead of NaN.
    """
    return torch.stack([leaf.square().sum() for leaf in tree.values()]).sum().clamp_min(1e-24).sqrt()


def expand(tree: Mapping[str, Tensor], tasks: int) -> Tree:
    """Expand every leaf from ``[...]`` to ``[T, ...]``, without copying."""
    return {name: leaf.unsqueeze(0).expand(tasks, *leaf.shape) for name, leaf in tree.items()}


def subtree(tree: Mapping[str, Tensor], prefix: str) -> Tree:
    """Return the leaves below ``prefix``, named without it: ``network.0.weight`` becomes ``0.weight``."""
    start = prefix + "."
    return {name.removeprefix(start): leaf for name, leaf in tree.items() if name.startswith(start)}


def with_prefix(prefix: str, tree: Mapping[str, Tensor]) -> Tree:
    """Prepend a prefix to all names: ``0.weight`` becomes ``network.0.weight``; the inverse of `subtree`."""
    return {f"{prefix}.{name}": leaf for name, leaf in tree.items()}
