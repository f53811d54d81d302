"""The methods that training, evaluation and inference need of a network, with or without prompts."""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lmsfe_sam.model.mask_decoder import DecodedTokens
from lmsfe_sam.model.network import ImageEmbedding, Ragged


@runtime_checkable
class PromptableNetwork(Protocol):
    """Encodes an image once and decodes prompts on it; `lmsfe_sam.LMSFESAM` describes each method.

    Attributes:
        image_size: side of the square input in pixels.
        low_res_size: side of the low-resolution logits.
        prompt_kinds: what an object may be prompted with, some of `lmsfe_sam.model.network.PROMPT_KINDS`.
    """

    image_size: int
    low_res_size: int
    prompt_kinds: tuple[str, ...]

    def encode(self, image: Tensor) -> ImageEmbedding:
        """Encode ``image (B, 3, S, S)`` once, for any number of prompts."""

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Ragged = None,
        points: Ragged = None,
        point_labels: Ragged = None,
        masks: Ragged = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Return logits ``(B, N, S, S)``, predicted IoU ``(B, N)`` and, on demand, low-resolution logits."""

    def decode_tokens(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> DecodedTokens:
        """Return all mask tokens of every object, for training; prompts as `decode` takes them."""

    def load_pretrained(self, path: str | os.PathLike[str]) -> Any:
        """Load weights from a file, or refuse the file."""

    def describe(self) -> dict[str, object]:
        """Return the description from which the network is rebuilt."""
