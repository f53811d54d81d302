"""Embeddings of the last images, so that a second click on an image costs a decoder pass alone."""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from lmsfe_sam.model.network import ImageEmbedding


class EmbeddingCache:
    """Keeps the embeddings of the images used last, by what they show.

    The key is a digest of the very tensor that the network is given, so an image that has changed is
    never answered from the one before, whatever its name, and sessions that show the same image share
    one embedding. Embeddings of other weights are dropped: the network is compared by identity and by
    the version counters that PyTorch raises whenever a parameter is written to.

    Args:
        size: how many embeddings are cached; the one unused for longest is dropped first. 0 caches none.
    """

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.hits = 0
        self._kept: OrderedDict[bytes, ImageEmbedding] = OrderedDict()
        self._network: weakref.ref[Any] | None = None
        self._weights = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __deepcopy__(self, memo: dict[int, Any]) -> EmbeddingCache:
        return EmbeddingCache(self.size)  # neither a lock nor what is kept needs a copy

    def encode(self, network: Any, image: Tensor) -> ImageEmbedding:
        """Return ``network.encode(image)``, from the cache where it holds it.

        Args:
            network: an `LMSFESAM` in evaluation mode.
            image: (B, 3, S, S), as the network takes it.
        """
        if self.size <= 0 or network.training or torch.is_grad_enabled():
            return network.encode(image)
        key = _digest(image)
        with self._lock:
            self._forget_other_weights(network)
            if key in self._kept:
                self._kept.move_to_end(key)
                self.hits += 1
                return self._kept[key]
        embedding = network.encode(image)
        with self._lock:
            self._kept[key] = embedding
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
        return embedding

    def _forget_other_weights(self, network: Any) -> None:
        weights = sum(tensor._version for tensor in (*network.parameters(), *network.buffers()))
        if self._network is None or self._network() is not network or self._weights != weights:
            self._kept.clear()
            self._network, self._weights = weakref.ref(network), weights


def _digest(image: Tensor) -> bytes:
    """A digest of a tensor's shape, type, device and values."""
    values = image.detach().contiguous().view(torch.uint8).cpu().numpy()
    label = f"{tuple(image.shape)} {image.dtype} {image.device}"
    return hashlib.blake2b(values.tobytes() + label.encode(), digest_size=20).digest()
