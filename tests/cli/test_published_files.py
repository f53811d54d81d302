"""Published files evaluated by the real command on their authors' input, beside the authors' way written out.

The files are of small networks: segment_anything's own classes, and SAM-Med2D's from ``tests/sam_med2d.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import run as run_bundle
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from skimage.transform import resize
from torch.nn import functional as F

from lmsfe_sam import tables
from lmsfe_sam.baselines import edgesam
from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.errors import find_input_error
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD, PRESETS
from lmsfe_sam.prompts.simulate import tight_box
from sam_med2d import build_sam, randomise
from tiny import TINY

SIZE = 96
"""Side of the input: the smallest phantoms are smaller."""

SHAPES = [(90, 140), (64, 72), (120, 70)]
"""One image is smaller than the input on both sides, which SAM-Med2D pads; the others have either shape."""

Reference = Callable[[Sam, np.ndarray, np.ndarray], np.ndarray]


def sam_mask(model: Sam, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    predictor = SamPredictor(model)
    predictor.set_image(pixels)
    return predictor.predict(box=box, multimask_output=False)[0][0]


def decoded(model: Sam, image: torch.Tensor, box: np.ndarray, multimask: bool) -> tuple[Any, Any]:
    sparse, dense = model.prompt_encoder(None, torch.tensor(box, dtype=torch.float32)[None], None)
    positions = model.prompt_encoder.get_dense_pe()
    return model.mask_decoder(model.image_encoder(image[None]), positions, sparse, dense, multimask)


def medsam_mask(model: Sam, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Minimum..maximum to 0..1, no mean; probabilities are resized, not logits."""
    height, width = pixels.shape[:2]
    small = resize(pixels, (SIZE, SIZE), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    image = (small - small.min()) / max(small.max() - small.min(), 1e-8)
    box = box / np.array([width, height, width, height]) * SIZE
    low_res, _ = decoded(model, torch.tensor(image).permute(2, 0, 1).float(), box, False)
    return F.interpolate(low_res.sigmoid(), (height, width), mode="bilinear")[0, 0].numpy() > 0.5


def sam_med2d_mask(model: Sam, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Blue first, nearest neighbours or zeros around; the best of three masks by predicted IoU."""
    height, width = pixels.shape[:2]
    image = (pixels[..., ::-1].astype(np.float64) - PIXEL_MEAN) / PIXEL_STD
    if padded := max(height, width) < SIZE:
        top, left = (SIZE - height) // 2, (SIZE - width) // 2
        square = np.zeros((SIZE, SIZE, 3))
        square[top : top + height, left : left + width] = image
        box = box + np.array([left, top, left, top])
    else:
        square = image[np.arange(SIZE) * height // SIZE][:, np.arange(SIZE) * width // SIZE]
        box = box * np.array([SIZE / width, SIZE / height] * 2)
    low_res, iou = decoded(model, torch.tensor(square).permute(2, 0, 1).float(), box, True)
    logits = F.interpolate(low_res[:, [int(iou.argmax())]], (SIZE, SIZE), mode="bilinear")
    if padded:
        return logits[0, 0, top : top + height, left : left + width].numpy() > 0
    return F.interpolate(logits, (height, width), mode="bilinear")[0, 0].numpy() > 0


AUTHORS: dict[str, Reference] = {
    "sam": sam_mask,
    "edgesam": sam_mask,
    "medsam": medsam_mask,
    "sam_med2d": sam_med2d_mask,
}
TITLES = {"sam": "SAM", "edgesam": "EdgeSAM", "medsam": "MedSAM", "sam_med2d": "SAM-Med2D"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in colour, so that the order of the channels matters."""
    path = tmp_path_factory.mktemp("data") / "phantoms"
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    for number, shape in enumerate(SHAPES):
        image, mask = render_phantom(number, shape)
        colours = np.stack([image, image // 2, 255 - image], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(path / "images" / f"{number}.png")
        Image.fromarray((255 * (mask > 0)).astype(np.uint8)).save(path / "masks" / f"{number}.png")
    return path


@pytest.fixture
def evaluate(
    folder: Path, tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch, restored_globals: None
) -> Any:
    monkeypatch.chdir(bundle_root)
    monkeypatch.setitem(PRESETS, "vit_b", TINY["tiny_b"])
    monkeypatch.setattr(edgesam, "DEPTHS", (1, 1, 2, 1))

    def run(file: Path, *configs: str, **options: Any) -> Path:
        given = {
            "prompt_modes": "box,control_ellipse",
            "metric_size": "native",
            "bootstrap": 10,
            "gallery": 1,
        }
        given |= {"dataset_dir": str(folder), "split": "all", "device": "cpu", "curves": False, **options}
        output = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        files = [f"configs/{name}.json" for name in ("train", "evaluate", *configs)]
        run_bundle(
            run_id="evaluating", config_file=files, checkpoint=str(file), output_dir=str(output), **given
        )
        return output

    return run


class WithoutSkips(torch.nn.Module):
    """An encoder of this project as segment_anything's classes expect one."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.img_size = encoder, SIZE

    def forward(self, image: torch.Tensor) -> Any:
        return self.encoder(image)[0]


def edge_sam(file: Path) -> Sam:
    """EdgeSAM with segment_anything's own prompts, decoder and predictor."""
    network = randomise(edgesam.EdgeSam(SIZE), 3, gain=1.0).eval()
    torch.save(network.state_dict(), file)
    model = build_sam(replace(TINY["tiny_b"], decoder_dim=256, decoder_mlp_dim=2048), SIZE)
    for part in ("prompt_encoder", "mask_decoder"):
        getattr(model, part).load_state_dict(getattr(network, part).state_dict())
    model.image_encoder = WithoutSkips(network.image_encoder)
    return model


def published(name: str, path: Path) -> tuple[Sam, Path]:
    torch.manual_seed(0)  # of the random positions, which are no parameter
    if name == "edgesam":
        return edge_sam(path / "edgesam.pth"), path / "edgesam.pth"
    model = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=name == "sam_med2d"), 3, gain=1.0)
    state = model.state_dict()
    torch.save({"model": state} if name == "sam_med2d" else state, path / f"{name}.pth")
    return model, path / f"{name}.pth"


def mask_of(output: Path, name: str) -> np.ndarray:
    (file,) = (output / "masks").rglob(f"{name}.png")
    return np.asarray(Image.open(file)) > 0


def cases(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for file in sorted((folder / "images").iterdir()):
        truth = np.asarray(Image.open(folder / "masks" / file.name)) > 0
        yield file.stem, np.asarray(Image.open(file)), np.array(tight_box(truth))


@pytest.mark.parametrize("name", AUTHORS)
@torch.no_grad()
def test_masks_are_those_of_the_authors_own_steps(
    evaluate: Any, folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = published(name, tmp_path)
    own = evaluate(file, f"baselines/{name}", image_size=SIZE)
    ours = evaluate(file, f"baselines/{name}", image_size=SIZE, preprocessing="ours")
    differ = 0
    for stem, pixels, box in cases(folder):
        expected = AUTHORS[name](model, pixels, box)
        assert 0.1 < expected.mean() < 0.9
        found = mask_of(own, stem)
        assert (found != expected).mean() < 1e-3, stem  # a logit may be zero up to rounding
        differ += int((mask_of(ours, stem) != found).sum())
    assert differ > 100
    summary = json.loads((own / "summary.json").read_text())
    assert summary["preprocessing"] == "authors"
    assert summary["multimask"] == ("best" if name == "sam_med2d" else "sam")
    assert json.loads((ours / "summary.json").read_text())["preprocessing"] == "ours"
    capsys.readouterr()
    tables.main(["--runs", str(own), str(ours)])
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if "tight box" in line]
    assert rows == [f"| {TITLES[name]}, its authors' preprocessing", f"| {TITLES[name]}"]


def test_every_prompt_on_the_authors_input(evaluate: Any, folder: Path, tmp_path: Path) -> None:
    """Clicks, no prompt and both curves, at the size at which the tables compare."""
    _, file = published("sam_med2d", tmp_path)
    options = {"image_size": SIZE, "prompt_modes": "all", "curves": True, "metric_size": 64}
    first = evaluate(file, "baselines/sam_med2d", **options, multimask="first")
    best = evaluate(file, "baselines/sam_med2d", **options, multimask="best")
    scores = [json.loads((run / "summary.json").read_text())["prompts"] for run in (first, best)]
    for mode in ("box", "point", "clicks_5", "none"):
        assert scores[0][mode] != scores[1][mode], mode
    assert scores[0]["control_ellipse"] == scores[1]["control_ellipse"]


def test_what_is_said_of_a_published_file(
    evaluate: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lmsfe_sam import LMSFESAM
    from lmsfe_sam.model.checkpoints import save_weights

    _, file = published("sam_med2d", tmp_path)
    evaluate(file, "baselines/sam_med2d", image_size=SIZE)
    assert f"sam_med2d was published at 256 pixels and is evaluated at {SIZE}" in capsys.readouterr().out
    evaluate(file)  # the first row of table 5, which takes SAM-Med2D's file without its adapters
    printed = capsys.readouterr().out
    assert "24 left out" in printed and "left out: image_encoder.blocks.0.Adapter." in printed
    save_weights(LMSFESAM("vit_b", SIZE), tmp_path / "ours.pt")
    for options, sentence in (
        ({"preprocessing": "authors"}, "preprocessing is 'authors', but preset 'vit_b' has none of its own"),
        ({"preprocessing": "theirs"}, "preprocessing is 'theirs': give one of ours, authors, or null"),
    ):
        with pytest.raises(Exception) as caught:
            evaluate(tmp_path / "ours.pt", **options)
        assert sentence in str(find_input_error(caught.value))


def test_a_file_of_another_network_is_refused(evaluate: Any, tmp_path: Path) -> None:
    files = {name: published(name, tmp_path)[1] for name in ("sam", "sam_med2d")}
    for network, file, sentence in (
        (
            "sam_med2d",
            "sam",
            r"lacks 24 tensors of sam_med2d ('image_encoder.blocks.0.Adapter.",
        ),
        (
            "medsam",
            "sam_med2d",
            "has 24 tensors too many for medsam ('image_encoder.blocks.0.Adapter.",
        ),
        ("ukan", "sam", "does not fit ukan: "),
    ):
        with pytest.raises(Exception) as caught:
            evaluate(files[file], f"baselines/{network}", image_size=SIZE, prompt_modes="all")
        assert sentence in str(find_input_error(caught.value))


def test_a_checkpoint_trained_here_gets_our_input(evaluate: Any, tmp_path: Path) -> None:
    from lmsfe_sam.baselines import build
    from lmsfe_sam.model.checkpoints import save_weights

    save_weights(build("medsam", image_size=SIZE), tmp_path / "trained.pt")
    runs = (evaluate(tmp_path / "trained.pt"), evaluate(tmp_path / "trained.pt", preprocessing="authors"))
    assert [json.loads((run / "summary.json").read_text())["preprocessing"] for run in runs] == [
        "ours", "authors"
    ]  # fmt: skip
