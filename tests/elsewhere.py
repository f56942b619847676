"""A simulated second device: CPU tensors that claim to be elsewhere, to test without a GPU what a GPU would refuse.

Within `Rehearsal`, tensors made on `ELSEWHERE` or moved there stay there until they are moved back. As on a GPU,
operations that mix tensors of both devices are refused (except for plain numbers, indices and copies), and so are
operations without a deterministic implementation. How often the host would have to wait for a value is counted. Values
are those of the CPU.

Views made in place (``squeeze_``) are not supported: testing how a rule or loss fails on wrong shapes needs a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")  # exists in every build of torch, and is not used for anything else here
MIXING = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}  # may mix devices
LOOKING = {"_local_scalar_dense", "nonzero", "masked_select"}  # need a value, or a number of values, on the host
NOT_DETERMINISTIC = {"cumsum", "cumsum_", "kthvalue", "median", "nanmedian", "histc", "put_"}  # for floats


class Elsewhere(Tensor):
    """A tensor with the values of ``inner`` that claims to be on the device `ELSEWHERE`."""

    inner: Tensor
    is_meta = False  # unlike real tensors of the device "meta", it has values

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
    """Do every operation on the CPU, and put its results on the device on which they would be."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        """how often the host would have waited for a value from elsewhere"""

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
        if name == "_efficientzerotensor":  # has no memory, which wrapping it would hide
            function = torch.ops.aten.zeros.default
        given = {id(one.inner): one for one in away}  # operations in place have to return the tensor they were given
        result = function(*tree_map(here, args), **tree_map(here, kwargs))
        if place != ELSEWHERE:
            return result
        return tree_map(lambda x: given.get(id(x), Elsewhere(x)) if isinstance(x, Tensor) else x, result)


def here(x: Any) -> Any:
    """Return the argument of an operation as it is on the CPU."""
    if isinstance(x, Elsewhere):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) else x


def refuse(name: str, tensors: list[Tensor], away: list[Elsewhere]) -> None:
    """Refuse the operations that a GPU refuses with deterministic algorithms.

    Raises:
        RuntimeError: tensors are on different devices, or the operation is not deterministic.
    """
    if away and name not in MIXING and any(one.dim() > 0 for one in tensors if not isinstance(one, Elsewhere)):
        raise RuntimeError(f"expected all tensors of {name} to be on the same device, found some elsewhere, some not")
    if away and name in NOT_DETERMINISTIC and tensors[0].is_floating_point():
        raise RuntimeError(f"{name} does not have a deterministic implementation elsewhere")
