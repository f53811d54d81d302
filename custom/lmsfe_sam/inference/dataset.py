"""A dataset that skips bad files and reports them at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset

from lmsfe_sam.errors import InputError, find_input_error
from lmsfe_sam.images.image import NoImageError

logger = logging.getLogger(__name__)


class SkippingDataset(IterableDataset[Any]):
    """Yields the transformed records, except for those whose transform raises an `InputError`.

    Args:
        data: the records.
        transform: applied to each; read it in the main process (no workers), where `failures` is.
        is_done: whether a record is to be skipped, as an earlier run has finished it.

    Attributes:
        failures: what was wrong, one sentence a bad record.
        without_image: sentences on files that are whole and hold no image, which are no failures.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[Any], Any],
        is_done: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self.data = data
        self.transform = transform
        self.is_done = is_done
        self.failures: list[str] = []
        self.without_image: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        self.failures.clear()
        self.without_image.clear()
        for record in self.data:
            if "frames" in record:  # a cine, which `lmsfe_sam.inference.cine` segments as a whole
                continue
            if self.is_done is not None and self.is_done(record):
                continue
            try:
                transformed = self.transform(dict(record))
            except Exception as error:
                cause = find_input_error(error)
                if cause is None:
                    raise
                kept = self.without_image if isinstance(cause, NoImageError) else self.failures
                kept.append(str(cause))
                continue
            yield transformed

    def finish(self) -> None:
        """Report the records that failed.

        Raises:
            InputError: some were left out; the message has a line for each. Or none holds an image.
        """
        total, bad = len(self.data), len(self.failures)
        if total and len(self.without_image) == total:
            raise InputError("\n".join(self.without_image))
        for sentence in self.without_image:
            logger.warning("%s", sentence)
        if bad == 1 and total == 1:
            raise InputError(self.failures[0])
        if bad:
            raise InputError(f"{bad} of {total} inputs were left out:", self.failures)
