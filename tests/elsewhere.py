"""A device that is none: tensors that lie in memory and say they are elsewhere, to rehearse what a GPU would refuse.

Within `Rehearsal`, what is made on `ELSEWHERE` or moved there stays there until it is moved back. As on a GPU, an
operation on tensors of both places is refused (but for plain numbers, indices and copies), as are those that have no
deterministic implementation; how often the host had to wait for a value is counted. Values are those of the CPU.
Views of a tensor made in place (``squeeze_``) are beyond it: a rule or loss that is found out by wrong shapes needs a
GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")  # which torch has in every build, and which nothing else here uses
MIXING = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
LOOKING = {"_local_scalar_dense", "nonzero", "masked_select"}  # at a value, or at how many there are
NOT_DETERMINISTIC = {"cumsum", "cumsum_", "kthvalue", "median", "nanmedian", "histc", "put_"}  # of floats


class Elsewhere(Tensor):
    """A tensor that is ``inner`` and says that it is elsewhere."""

    inner: Tensor
    is_meta = False  # it has values

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        about = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made: Elsewhere = Tensor._make_wrapper_subclass(cls, inner.size(), device=ELSEWHERE, **about)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inner!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("cannot convert a tensor of another device to numpy")

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("a tensor that is elsewhere met an operation outside of its rehearsal")


class Rehearsal(TorchDispatchMode):
    """Does every operation on the CPU, and gives its results the place that they would have."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        """how often the host waited for a value from elsewhere"""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = [one for one in tensors if isinstance(one, Elsewhere)]
        refuse(name, tensors, away)
        place = args[0].device if name == "copy_" else kwargs.get("device") or (ELSEWHERE if away else None)
        back = bool(away) and name == "_to_copy" and place != ELSEWHERE
        masked = name.startswith("index") and any(one.dtype is torch.bool for one in tensors[1:])
        self.looks += back or bool(away and (masked or name in LOOKING))
        if name == "_efficientzerotensor":  # has no memory, which its disguise would hide
            function = torch.ops.aten.zeros.default
        given = {id(one.inner): one for one in away}  # what works in place gives back what it was given
        result = function(*tree_map(here, args), **tree_map(here, kwargs))
        if place != ELSEWHERE:
            return result
        return tree_map(lambda x: given.get(id(x), Elsewhere(x)) if isinstance(x, Tensor) else x, result)


def here(x: Any) -> Any:
    """What an operation works on."""
    if isinstance(x, Elsewhere):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) else x


def refuse(name: str, tensors: list[Tensor], away: list[Elsewhere]) -> None:
    """As a GPU does that is asked for equal bits.

    Raises:
        RuntimeError: tensors of both places; an operation that is not deterministic.
    """
    if away and name not in MIXING and any(one.dim() > 0 for one in tensors if not isinstance(one, Elsewhere)):
        raise RuntimeError(f"expected all tensors of {name} to be on the same device, found some elsewhere, some not")
    if away and name in NOT_DETERMINISTIC and tensors[0].is_floating_point():
        raise RuntimeError(f"{name} does not have a deterministic implementation elsewhere")
