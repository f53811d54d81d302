"""What is kept after each epoch, and going on from it."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lmsfe_sam.errors import InputError
from lmsfe_sam.training.handlers import (
    CHECKPOINT,
    AverageWeights,
    RunRecorder,
    ValidateEpochs,
    read_checkpoint,
)
from lmsfe_sam.training.optimization import warmed_up_average
from lmsfe_sam.training.run_folder import RunFolder

SCORES = [0.5, 0.9, 0.7, 0.8, 0.6]


class Describable(nn.Linear):
    def describe(self) -> dict[str, object]:
        return {"preset": "vit_t", "image_size": 16}


@pytest.fixture(autouse=True)
def _close_log_files() -> Iterator[None]:
    before = list(logging.getLogger("lmsfe_sam").handlers)
    yield
    for handler in set(logging.getLogger("lmsfe_sam").handlers) - set(before):
        logging.getLogger("lmsfe_sam").removeHandler(handler)
        handler.close()


def train(
    output_dir: Path,
    epochs: int,
    resume: Path | None = None,
    steps: int = 2,
    patience: int = 9,
    interval: int = 1,
) -> SimpleNamespace:
    """Run a trainer whose steps are known, with a validator whose scores are `SCORES`."""
    torch.manual_seed(0)
    network = Describable(3, 1)
    average = AveragedModel(network, multi_avg_fn=warmed_up_average(0.9), use_buffers=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    validator = Engine(lambda engine, batch: None)
    validator.state.metrics = {}
    validator.state.best_metric, validator.state.best_metric_epoch = -1, -1
    folder = RunFolder(str(output_dir), str(resume) if resume else None, {"dataset_dir": None})

    def step(engine: Engine, batch: int) -> dict[str, float]:
        optimizer.zero_grad()
        loss = (network(torch.full((1, 3), float(engine.state.iteration))) - 1).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return {"loss": loss.item()}

    trainer: Any = Engine(step)
    trainer.scaler = None
    trainer.state.max_epochs, trainer.state.epoch_length = epochs, steps
    stop = EarlyStopHandler(patience, lambda engine: engine.state.metrics["val_dice"], trainer)

    @trainer.on(Events.EPOCH_COMPLETED(every=interval))
    def validate(engine: Engine) -> None:
        epoch = validator.state.epoch = engine.state.epoch
        validator.state.metrics = {"val_dice": SCORES[epoch - 1], "val_dice_box": 0.5, "val_hd_box": 3.0}
        if SCORES[epoch - 1] > validator.state.best_metric:
            validator.state.best_metric, validator.state.best_metric_epoch = SCORES[epoch - 1], epoch
        stop(validator)

    AverageWeights(average, network).attach(trainer)
    recorder = RunRecorder(folder, network, average, optimizer, scheduler, validator, stop)
    recorder.attach(trainer)
    trainer.run(range(steps), max_epochs=epochs)
    return SimpleNamespace(network=network, average=average, recorder=recorder, trainer=trainer, stop=stop)


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without the clock's figures, tensors as lists."""
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items() if key != "seconds"}
    return [plain(item) for item in state] if isinstance(state, list) else state


def test_the_best_weights_are_the_averages_of_the_best_epoch(tmp_path: Path) -> None:
    run = train(tmp_path / "run", epochs=2)
    best = {key: value.clone() for key, value in run.average.module.state_dict().items()}
    run = train(tmp_path / "longer", epochs=5)
    saved = torch.load(tmp_path / "longer" / "model.pt", weights_only=True)
    for key, value in best.items():
        assert torch.equal(saved[key], value)
        assert not torch.equal(saved[key], run.network.state_dict()[key])
    assert json.loads((tmp_path / "longer" / "model.json").read_text())["preset"] == "vit_t"
    checkpoint = read_checkpoint(tmp_path / "longer" / "checkpoint_last.pt")
    assert (checkpoint["best_metric"], checkpoint["best_metric_epoch"], checkpoint["epoch"]) == (0.9, 2, 5)
    assert [row["val_dice"] for row in checkpoint["history"]] == SCORES
    assert "val_hd_box" not in checkpoint["history"][0]


def test_a_run_in_two_parts_equals_one_in_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", epochs=5)
    train(tmp_path / "parts", epochs=3)
    parts = train(tmp_path / "elsewhere", epochs=5, resume=tmp_path / "parts")
    assert plain(whole.recorder.state(whole.trainer)) == plain(parts.recorder.state(parts.trainer))
    assert not (tmp_path / "elsewhere").exists()
    first, second = (torch.load(tmp_path / n / "model.pt", weights_only=True) for n in ("whole", "parts"))
    assert plain(first) == plain(second)


def test_epochs_without_a_validation_leave_gaps(tmp_path: Path) -> None:
    run = train(tmp_path / "run", epochs=5, interval=2)
    assert [row.get("val_dice") for row in run.recorder.history] == [None, 0.9, None, 0.8, None]
    assert read_checkpoint(tmp_path / "run" / "checkpoint_last.pt")["best_metric_epoch"] == 2


@pytest.mark.parametrize(
    ("epochs", "interval", "validated"), [(5, 2, [2, 4, 5]), (3, 9, [3]), (2, 1, [1, 2])]
)
def test_the_last_epoch_is_always_validated(epochs: int, interval: int, validated: list[int]) -> None:
    seen: list[int] = []
    handler = ValidateEpochs(interval)
    trainer = Engine(lambda engine, batch: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ValidateEpochs, "__call__", lambda self, engine: seen.append(engine.state.epoch))
        handler.attach(trainer)
        trainer.run([0], max_epochs=epochs)
    assert seen == validated


def test_a_run_goes_on_elsewhere_before_its_first_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmsfe_sam")
    monkeypatch.setattr("lmsfe_sam.training.run_folder.given_keys", lambda: {"output_dir": "given"})
    train(tmp_path / "run", epochs=1, interval=2)
    assert not (tmp_path / "run" / "model.pt").exists()
    elsewhere = train(tmp_path / "elsewhere", epochs=3, resume=tmp_path / "run", interval=2)
    assert elsewhere.trainer.state.epoch == 3 and (tmp_path / "elsewhere" / "model.pt").is_file()
    assert "was not validated yet" in caplog.text
    (tmp_path / "elsewhere" / "model.pt").unlink()
    with pytest.raises(InputError, match=r"elsewhere' has lost its model\.pt: put it back"):
        train(tmp_path / "third", epochs=4, resume=tmp_path / "elsewhere", interval=2)


def test_a_checkpoint_from_before_ignite_wrote_more_of_early_stopping(tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=3)
    path = tmp_path / "run" / "checkpoint_last.pt"
    saved = read_checkpoint(path)
    saved["early_stop"] = {key: saved["early_stop"][key] for key in ("counter", "best_score")}
    torch.save(saved, path)
    again = train(tmp_path / "run", epochs=5, resume=tmp_path / "run")
    assert again.stop._handler.best_score == 0.9


def test_early_stopping_counts_on_over_an_interruption(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", epochs=5, patience=2)
    assert whole.trainer.state.epoch == 4  # the best was epoch 2
    train(tmp_path / "parts", epochs=3, patience=2)
    parts = train(tmp_path / "parts", epochs=5, resume=tmp_path / "parts", patience=2)
    assert parts.trainer.state.epoch == 4


def test_with_another_number_of_steps_the_schedule_goes_on_from_its_place(tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=2, steps=2)
    again = train(tmp_path / "run", epochs=4, resume=tmp_path / "run", steps=3)
    assert again.recorder.scheduler.last_epoch == 4 * 3
    assert again.trainer.state.iteration == 4 * 3


def test_what_cannot_be_gone_on_with_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=2)
    with pytest.raises(InputError, match=r"has finished its 2 epochs: give a larger --epochs"):
        train(tmp_path / "run", epochs=2, resume=tmp_path / "run")
    (tmp_path / "run" / "checkpoint_last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="damaged"):
        train(tmp_path / "run", epochs=4, resume=tmp_path / "run")


def test_a_full_disk_is_named_and_the_checkpoint_before_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", epochs=2)

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"No space left.*--output_dir"):
        patch.setattr(Path, "write_bytes", full)
        train(tmp_path / "run", epochs=4, resume=tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "checkpoint_last.pt")["epoch"] == 2
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('it ran')",))


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "network": Malicious()}, tmp_path / "checkpoint_last.pt")
    with pytest.raises(InputError, match="no checkpoint of a training run"):
        read_checkpoint(tmp_path / "checkpoint_last.pt")


def test_the_row_that_a_kill_cost_comes_back_with_the_next_start(tmp_path: Path) -> None:
    """The kill came after the checkpoint and before history.csv, in the last epoch, too."""
    train(tmp_path / "run", epochs=3)
    history = tmp_path / "run" / "history.csv"
    whole = history.read_text()
    history.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="has finished its 3 epochs"):
        train(tmp_path / "run", epochs=3, resume=tmp_path / "run")
    assert history.read_text() == whole
    history.unlink()
    train(tmp_path / "run", epochs=4, resume=tmp_path / "run")
    assert len(history.read_text().splitlines()) == 5


CHANGES = {
    **{f"no {key}": (lambda saved, key=key: saved.pop(key)) for key in CHECKPOINT},
    **{f"{key} is a text": (lambda saved, key=key: saved.update({key: "text"})) for key in CHECKPOINT},
    "network without tensors": lambda saved: saved["network"].update(weight="text"),
    "network of another shape": lambda saved: saved["network"].update(weight=torch.zeros(7, 7)),
    "another network": lambda saved: saved.update(network={"a": torch.zeros(1)}),
    "an optimizer without groups": lambda saved: saved.update(optimizer={}),
    "an optimizer of another network": lambda saved: saved["optimizer"]["param_groups"][0]["params"].append(
        9
    ),
    "an empty average": lambda saved: saved.update(average={}),
    "a foreign schedule": lambda saved: saved["schedule"].update(optimizer=1),
    "history of others": lambda saved: saved["history"][0].update(name=1),
    "history without rows": lambda saved: saved.update(history=[]),
    "epoch -1": lambda saved: saved.update(epoch=-1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_something_else_is_a_sentence(tmp_path: Path, change: str) -> None:
    train(tmp_path / "run", epochs=2)
    path = tmp_path / "run" / "checkpoint_last.pt"
    saved = read_checkpoint(path)
    CHANGES[change](saved)
    torch.save(saved, path)
    with pytest.raises(InputError, match=r"resume '.*' (is damaged|is of another|had 2 steps)") as caught:
        train(tmp_path / "run", epochs=4, resume=tmp_path / "run")
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize("content", [b"", b"PK", [1], {}, {"a": torch.zeros(2)}, torch.zeros(2), None])
def test_what_is_no_checkpoint_of_a_run_is_a_sentence(tmp_path: Path, content: object) -> None:
    path = tmp_path / "checkpoint_last.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match="is damaged or no checkpoint of a training run"):
        read_checkpoint(path)
