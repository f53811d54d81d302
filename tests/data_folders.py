"""Tiny data sets in the layouts of the public ones, made by the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SIZE = (60, 72)


def speckle(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey picture like no other seed's, uint8."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=size), min(size) / 20)
    return np.uint8(np.clip(128 + 60 * noise / noise.std(), 0, 255))


def disc(
    size: tuple[int, int] = SIZE, radius: float = 12.0, centre: tuple[float, float] | None = None
) -> np.ndarray:
    """A round lesion, bool; the centre is (row, column)."""
    row, column = centre or (size[0] / 2, size[1] / 2)
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write a picture, bool as 1-bit, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_busi(root: Path, benign: int = 4, malignant: int = 3, normal: int = 0) -> Path:
    for name, number in (("benign", benign), ("malignant", malignant), ("normal", normal)):
        for k in range(1, number + 1):
            save(root / name / f"{name} ({k}).png", speckle(100 * len(name) + k))
            save(root / name / f"{name} ({k})_mask.png", disc() & (name != "normal"))
    return root


def make_busbra(
    root: Path, cases: Sequence[str] = ("0001-l", "0001-r", "0002-l", "0003-s"), table: bool = True
) -> Path:
    for seed, case in enumerate(cases):
        save(root / "Images" / f"bus_{case}.png", speckle(seed))
        save(root / "Masks" / f"mask_{case}.png", disc())
    if table:
        rows = [
            f"bus_{case},P{case[:4]},{'benign' if seed % 2 else 'malignant'},4,GE"
            for seed, case in enumerate(cases)
        ]
        (root / "bus_data.csv").write_text(
            "\n".join(["ID,Case,Pathology,BIRADS,Device", *rows]), encoding="utf-8"
        )
    return root


def make_pairs(
    images: Path, masks: Path, names: Sequence[str], size: tuple[int, int] = SIZE, seed: int = 0
) -> None:
    """Images and masks of the same names in two folders."""
    for place, name in enumerate(names):
        save(images / name, speckle(seed + place, size))
        save(masks / Path(name).with_suffix(".png"), disc(size))


def make_plain(root: Path, number: int = 8, images: str = "images", masks: str = "masks") -> Path:
    make_pairs(root / images, root / masks, [f"case_{k}.png" for k in range(number)])
    return root


def make_tn3k(root: Path, train: int = 5, val: int = 2, test: int = 3) -> Path:
    names = [f"{k:04d}.jpg" for k in range(train + val)]
    make_pairs(root / "trainval-image", root / "trainval-mask", names)
    make_pairs(root / "test-image", root / "test-mask", [f"{k:04d}.jpg" for k in range(test)], seed=500)
    fold = {"train": list(range(train)), "val": list(range(train, train + val))}
    (root / "tn3k-trainval-fold0.json").write_text(json.dumps(fold))
    return root


def make_tg3k(root: Path) -> Path:
    """Three videos of 4, 3 and 5 frames; the first and the last are of one size."""
    first = 0
    for frames, size in ((4, (60, 72)), (3, (64, 80)), (5, (60, 72))):
        names = [f"{k:04d}.jpg" for k in range(first, first + frames)]
        make_pairs(root / "thyroid-image", root / "thyroid-mask", names, size, seed=first)
        first += frames
    (root / "tg3k-trainval.json").write_text(json.dumps({"train": list(range(10)), "val": [10, 11]}))
    return root


def make_ddti_views(root: Path) -> Path:
    names = ["1_1_F.jpg", "1_2_L.jpg", "1_2_R.jpg", "12_1_F.jpg", "7_1_L.jpg"]
    make_pairs(root / "images", root / "masks", names)
    return root


def make_ddti_xml(root: Path) -> Path:
    """Patient 1 with two images, patient 2 with one of two nodules, patient 3 broken off, patient 4 bare."""
    square = [{"x": 10, "y": 20}, {"x": 30, "y": 20}, {"x": 30, "y": 45}, {"x": 10, "y": 45}]
    small = [{"x": 50, "y": 10}, {"x": 60, "y": 10}, {"x": 60, "y": 20}]

    def region(points: list[dict[str, int]]) -> dict[str, Any]:
        return {"points": points, "annotation": {}, "regionType": "freehand"}

    def case(number: int, marks: str) -> None:
        (root / f"{number}.xml").write_text(f"<case><number>{number}</number><age>50</age>{marks}</case>")

    def mark(image: int, svg: str) -> str:
        return f"<mark><image>{image}</image><svg>{svg}</svg></mark>"

    for seed, stem in enumerate(["1_1", "1_2", "2_1", "3_1", "4_1"]):
        save(root / f"{stem}.jpg", speckle(seed))
    case(1, mark(1, json.dumps([region(square)])) + mark(2, json.dumps([region(square)])))
    case(2, mark(1, json.dumps([region(square), region(small)])))
    case(3, mark(1, json.dumps([region(square)])[:-8]))
    case(4, mark(1, ""))
    return root


def voc_xml(
    boxes: Sequence[Sequence[Any]], size: tuple[int, int] | None = SIZE, names: Sequence[str] = ()
) -> str:
    """A file of Pascal VOC's annotations; each box is xmin, ymin, xmax, ymax."""
    stated = "" if size is None else f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    objects = ""
    for place, box in enumerate(boxes):
        sides = "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False)
        )
        name = names[place] if names else "lesion"
        objects += f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"
    return f"<annotation><filename>other.jpg</filename>{stated}{objects}</annotation>"


def make_voc(root: Path, number: int = 6) -> Path:
    """Images with a mask and a box each, which is 2 pixels wider than the lesion on each side."""
    for k in range(number):
        save(root / "JPEGImages" / f"us {k}.png", speckle(k))
        save(root / "SegmentationClass" / f"us {k}.png", disc())
        (root / "Annotations").mkdir(exist_ok=True)
        # The disc's pixels are rows 19 to 41 and columns 25 to 47, from 0.
        (root / "Annotations" / f"us {k}.xml").write_text(voc_xml([(24, 18, 50, 44)]))
    return root


def coco_content(files: Sequence[str], segmentation: Any, first_id: int = 1) -> dict[str, Any]:
    """A COCO file with one annotation an image."""
    height, width = SIZE
    images = [
        {"id": first_id + k, "file_name": name, "height": height, "width": width}
        for k, name in enumerate(files)
    ]
    annotations = [
        {"id": k, "image_id": image["id"], "category_id": 1, "iscrowd": 0, "segmentation": segmentation}
        for k, image in enumerate(images)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "lesion"}]}


def make_coco(root: Path, number: int = 6) -> Path:
    names = [f"us_{k}.png" for k in range(number)]
    for seed, name in enumerate(names):
        save(root / "images" / name, speckle(seed))
    content = coco_content(names, [[10, 20, 30, 20, 30, 45, 10, 45]])
    (root / "annotations.json").write_text(json.dumps(content))
    return root
