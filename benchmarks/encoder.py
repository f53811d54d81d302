"""The image encoder beside segment_anything's and SAM-Med2D's, same random weights, one image.

Run from the root of the repository: ``python benchmarks/encoder.py``. Takes about 3 GB of memory.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch

from lmsfe_sam import LMSFESAM
from lmsfe_sam.model.presets import PRESETS
from timing import arguments, interleave, print_target, print_times

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sam_med2d import build_sam, randomise

OFF = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)


def against_sam(image_size: int, repeats: int) -> None:
    """Every toggle off, against segment_anything's encoder at the same size."""
    sam = randomise(build_sam(PRESETS["vit_b"], image_size), 0)
    ours = LMSFESAM("vit_b", image_size, **OFF).eval()
    ours.load_state_dict(sam.state_dict())
    image = torch.randn(1, 3, image_size, image_size)
    check(sam.image_encoder, ours, image)
    tasks = {
        "segment_anything": lambda: sam.image_encoder(image),
        "LMSFESAM, toggles off": lambda: ours.encode(image),
    }
    samples = interleave(tasks, repeats)
    print_times(f"ViT-B encoder at {image_size}", samples)
    if image_size == 256:
        print_target("toggles off / segment_anything", samples, *reversed(tasks), 0.80)


def against_sam_med2d(repeats: int) -> None:
    """Every part on, against SAM-Med2D's encoder, at 256."""
    plain = randomise(build_sam(PRESETS["vit_b"], 256, med2d=True), 0).image_encoder
    ours = LMSFESAM("vit_b").eval()
    image = torch.randn(1, 3, 256, 256)
    state = {f"image_encoder.{name}": tensor for name, tensor in plain.state_dict().items()}
    state = {name.replace(".Adapter.", ".channel_spatial_adapter."): t for name, t in state.items()}
    assert not ours.load_state_dict(state, strict=False).unexpected_keys
    check(plain, ours, image)
    off = LMSFESAM("vit_b", local_encoder=False, mhpm=False, balancing_adapter=False).eval()
    off.load_state_dict(ours.state_dict(), strict=False)
    tasks = {
        "SAM-Med2D, plain": lambda: plain(image),
        "LMSFESAM, every part": lambda: ours.encode(image),
        "LMSFESAM, adapters only": lambda: off.encode(image),
    }
    samples = interleave(tasks, repeats)
    print_times("Encoder with adapters at 256", samples)
    print_target("every part / SAM-Med2D", samples, "LMSFESAM, every part", "SAM-Med2D, plain", 0.85)


def check(plain: torch.nn.Module, ours: LMSFESAM, image: torch.Tensor) -> None:
    """Both compute the same, or comparing their times is worth nothing."""
    with torch.no_grad():
        expected, found = plain(image), ours.encode(image).features
    difference = (expected - found).abs().max().item()
    print(f"\nlargest difference {difference:.1e} at values up to {expected.abs().max():.1f}")
    assert difference < 1e-4


def main() -> None:
    options = arguments("Time the image encoder.", repeats=11)
    against_sam(256, options.repeats)
    gc.collect()
    against_sam_med2d(options.repeats)
    gc.collect()
    against_sam(1024, max(2, options.repeats // 4))


if __name__ == "__main__":
    main()
