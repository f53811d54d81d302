"""Results that depend on parameters alone: computed once in evaluation, and cached."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class ParameterCache(nn.Module, ABC):
    """Base of modules that do not see the image: a subclass defines ``_compute(size)``.

    In evaluation, without gradients, the result for a size is cached until a parameter changes. Autograd's
    version counters show this: every in-place change increments them, except one through ``.data``, which
    is why a change of mode empties the cache, too. Copies and pickles do not contain it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cached: tuple[tuple[object, ...], list[Tensor], Tensor] | None = None

    @abstractmethod
    def _compute(self, size: list[int]) -> Tensor: ...

    def _result(self, size: list[int]) -> Tensor:
        if torch.jit.is_scripting():
            return self._compute(size)
        else:  # TorchScript compiles whatever stands outside of the branch
            return self._cached_or_computed(size)

    def _cached_or_computed(self, size: list[int]) -> Tensor:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._compute(size)
        # The aliases hold on to the storages, so that no new parameter can be given an old address.
        aliases = [parameter.detach() for parameter in self.parameters()]
        tensors = ((alias.data_ptr(), _version(alias), alias.dtype) for alias in aliases)
        key = (*size, *_autocast_state(aliases[0].device.type), *tensors)
        cached = self._cached
        if cached is None or cached[0] != key:
            cached = (key, aliases, self._compute(size))
            self._cached = cached
        return cached[2]

    def train(self, mode: bool = True) -> ParameterCache:
        """Set the mode; a change of it empties the cache."""
        if mode != self.training:
            self._cached = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cached": None}


def _autocast_state(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was changed; tensors made in inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version
