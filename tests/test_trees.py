"""Arithmetic on parameter trees, by hand."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from metarl.trees import expand, global_norm, joined, sliced, subtree, tree_add, tree_detach, tree_map

TREE = {"b.weight": torch.tensor([[3.0, 0.0], [0.0, 0.0]]), "a": torch.tensor(4.0), "b.c.d": torch.zeros(0)}


def test_tree_map_keeps_names_and_order_and_changes_nothing_in_place() -> None:
    before = {name: leaf.clone() for name, leaf in TREE.items()}
    out = tree_map(lambda x, y: x * 2 + y, TREE, dict(reversed(TREE.items())))
    assert list(out) == list(TREE)
    assert all(torch.equal(out[name], 3 * leaf) for name, leaf in before.items())
    assert all(torch.equal(TREE[name], leaf) for name, leaf in before.items())
    assert torch.equal(tree_add(TREE, TREE)["a"], torch.tensor(8.0))


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="a"):
        tree_add(TREE, {"b.weight": TREE["b.weight"]})


def test_detach_cuts_the_graph() -> None:
    leaf = torch.ones(2, requires_grad=True)
    out = tree_detach({"x": leaf * 2})
    assert not out["x"].requires_grad and out["x"].tolist() == [2.0, 2.0]


def test_global_norm_by_hand_and_its_gradient() -> None:
    assert float(global_norm(TREE)) == 5.0
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    global_norm({"x": x}).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([0.6, 0.8]))
    zero = torch.zeros(3, requires_grad=True)
    global_norm({"x": zero}).backward()
    assert zero.grad is not None and zero.grad.tolist() == [0.0, 0.0, 0.0]


def test_expand_gives_every_task_the_same_values_without_a_copy() -> None:
    out = expand(TREE, 3)
    assert out["b.weight"].shape == (3, 2, 2) and out["a"].shape == (3,)
    assert torch.equal(out["b.weight"][2], TREE["b.weight"])
    assert out["b.weight"].data_ptr() == TREE["b.weight"].data_ptr()


def test_subtree_strips_its_prefix_only_at_dots() -> None:
    assert list(subtree(TREE, "b")) == ["weight", "c.d"]
    assert list(subtree(TREE, "b.c")) == ["d"]
    assert subtree({"bb.weight": torch.zeros(1), "b": torch.zeros(1)}, "b") == {}


class Pair(NamedTuple):
    first: torch.Tensor
    rest: tuple[dict[str, torch.Tensor], ...]


def test_what_is_sliced_and_joined_is_what_it_was_and_nested_as_it_was() -> None:
    tree = Pair(torch.arange(5.0), ({"x": torch.arange(10).reshape(5, 2)}, {}))
    parts = [sliced(tree, low, low + 2) for low in (0, 2, 4)]
    assert [part.first.tolist() for part in parts] == [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert parts[1].rest[0]["x"].tolist() == [[4, 5], [6, 7]] and parts[1].rest[1] == {}
    assert parts[0].first.data_ptr() == tree.first.data_ptr()  # no copy
    whole = joined(parts)
    assert isinstance(whole, Pair) and torch.equal(whole.first, tree.first)
    assert torch.equal(whole.rest[0]["x"], tree.rest[0]["x"]) and whole.rest[1] == {}
    assert joined(parts[:1]) is parts[0]
