"""The handler that collects the results of a run and writes them."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evaluation_results import INFO, make_results
from lmsfe_sam.evaluation.handlers import EvaluationWriter


def test_alone_a_process_writes_its_results_in_the_order_of_the_records(tmp_path: Path) -> None:
    results = make_results(3)
    records = [{"name": result.image} for result in results]
    writer = EvaluationWriter(records, INFO, str(tmp_path), save_masks=False, gallery=0)
    for result in results[::-1]:
        engine: Any = SimpleNamespace(state=SimpleNamespace(output=[result]))
        writer(engine)
    writer.finish(engine)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["image"] for row in rows)) == [result.image for result in results]
    assert {path.name for path in tmp_path.iterdir()} >= {"summary.json", "report.html", "predictions.csv"}
