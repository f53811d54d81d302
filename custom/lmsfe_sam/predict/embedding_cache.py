"""Embeddings of the last images, so that a second click on an image needs only a decoder pass."""

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
    """Caches the embeddings of the images used last, by their content.

    The key is a digest of the tensor that the network is given, so that a changed image never gets the
    embedding of an earlier one, whatever its name, and sessions with the same image share one embedding.
    Embeddings of other weights are dropped: the network is compared by identity and by the version counters
    that PyTorch increments whenever a parameter is written to.

    Args:
        size: how many embeddings are cached; the least recently used one is dropped first. 0 caches none.
    """

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.hits = 0
        self._cached: OrderedDict[bytes, ImageEmbedding] = OrderedDict()
        self._network: weakref.ref[Any] | None = None
        self._weights = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._cached)

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
            if key in self._cached:
                self._cached.move_to_end(key)
                self.hits += 1
                return self._cached[key]
        embedding = network.encode(image)
        with self._lock:
            self._cached[key] = embedding
            while len(self._cached) > self.size:
                self._cached.popitem(last=False)
        return embedding

    def _forget_other_weights(self, network: Any) -> None:
        weights = sum(tensor._version for tensor in (*network.parameters(), *network.buffers()))
        if self._network is None or self._network() is not network or self._weights != weights:
            self._cached.clear()
            self._network, self._weights = weakref.ref(network), weights


def _digest(image: Tensor) -> bytes:
    """A digest of a tensor's shape, type, device and values."""
    values = image.detach().contiguous().view(torch.uint8).cpu().numpy()
    label = f"{tuple(image.shape)} {image.dtype} {image.device}"
    return hashlib.blake2b(values.tobytes() + label.encode(), digest_size=20).digest()
