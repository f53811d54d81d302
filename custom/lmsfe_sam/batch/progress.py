"""How far a job is, while it runs and at its end."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm


@dataclass
class Summary:
    """What a job did.

    Attributes:
        total: images of the input.
        finished_before: of them when the job began.
        finished: by this job.
        failures: images with a sentence in ``failures.parquet``.
        objects: rows written by this job.
        bytes_read, bytes_written: sizes of images, and of masks and overlays.
        seconds: from the first image on.
    """

    total: int
    finished_before: int
    finished: int = 0
    failures: int = 0
    objects: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Images a second."""
        return (self.finished + self.failures) / self.seconds if self.seconds else 0.0

    def add(self, results: pa.Table) -> None:
        """Count results (`lmsfe_sam.batch.record.RESULT`)."""
        failed = pc.sum(pc.is_valid(results["sentence"])).as_py() or 0
        self.failures += failed
        self.finished += len(results) - failed
        self.bytes_read += pc.sum(results["bytes_read"]).as_py() or 0
        self.bytes_written += pc.sum(results["bytes_written"]).as_py() or 0
        self.seconds = time.monotonic() - self.started

    def as_dict(self) -> dict[str, Any]:
        """Return it as it stands in ``summary.json``."""
        content = {key: value for key, value in asdict(self).items() if key != "started"}
        return {**content, "seconds": round(self.seconds, 3), "images_per_second": round(self.rate, 3)}

    def sentence(self, output: str) -> str:
        """Return it in words."""
        done = self.finished_before + self.finished
        return (
            f"{done} of {self.total} images are finished in '{output}', {self.finished} of them now with "
            f"{self.objects} object(s): {self.rate:.3g} images/s, {_megabytes(self.bytes_read)} read, "
            f"{_megabytes(self.bytes_written)} written, {self.failures} failure(s)"
            + (" in failures.parquet." if self.failures else ".")
        )


def progress_bar(total: int, done: int) -> Any:
    """Return a bar with rate and time left; a line now and then where nobody sees it move."""
    seen = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        unit=" images",
        mininterval=0.5 if seen else 30,
        ascii=not seen,
        smoothing=0.1,
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB"
