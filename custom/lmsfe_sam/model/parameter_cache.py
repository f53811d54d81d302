"""Results that depend on parameters alone: computed once in evaluation, and kept."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class ParameterCache(nn.Module, ABC):
    """Base of modules that do not see the image: a subclass defines ``_compute(size)``.

    In evaluation, without gradients, the result for a size is kept until a parameter changes. That
    is told by autograd's version counters, which every in-place change counts up but one through
    ``.data``; so ``train()`` and ``eval()`` drop what is kept, too. Copies and pickles go without it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[tuple[object, ...], list[Tensor], Tensor] | None = None

    @abstractmethod
    def _compute(self, size: list[int]) -> Tensor: ...

    def _result(self, size: list[int]) -> Tensor:
        if torch.jit.is_scripting():
            return self._compute(size)
        else:  # TorchScript compiles whatever stands outside of the branch
            return self._kept_or_computed(size)

    def _kept_or_computed(self, size: list[int]) -> Tensor:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._compute(size)
        # The aliases hold on to the storages, so that no new parameter can be given an old address.
        aliases = [parameter.detach() for parameter in self.parameters()]
        key = (*size, *((alias.data_ptr(), _version(alias), alias.dtype) for alias in aliases))
        kept = self._kept
        if kept is None or kept[0] != key:
            kept = (key, aliases, self._compute(size))
            self._kept = kept
        return kept[2]

    def train(self, mode: bool = True) -> ParameterCache:
        """Set the mode and drop what is kept."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": None}


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed; one made in inference mode does not count."""
    return 0 if tensor.is_inference() else tensor._version
