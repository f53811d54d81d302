"""Bad inputs that are folders or places: data sets, runs, and outputs that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bad_files import PAGE, written
from cases import Case, batch, evaluate, infer, train
from commands import run
from PIL import Image

from data_folders import coco_content, disc, make_coco, make_ddti_xml, make_plain, save, speckle
from fuzzing import PIXELS

NAMES = [f"case_{number}.png" for number in range(4)]


def data_cases(folder: Path) -> Iterator[Case]:
    """Data sets that cannot be what they look like."""
    folder.mkdir()
    for name in ODD_SETS:
        root = make_plain(folder / name, 4)
        ODD_SETS[name](root)
        yield evaluate("--dataset_dir", root)
    for number, content in enumerate(DATALISTS):
        root = make_plain(folder / f"list{number}", 4)
        (root / "datalist.json").write_text(content)
        yield evaluate("--dataset_dir", root, may_work='"frame"' in content)  # a key that is nobody's
    for name, change in COCO.items():
        root = make_coco(folder / f"coco_{name}", 3)
        content = json.loads((root / "annotations.json").read_text())
        change(content)
        (root / "annotations.json").write_text(json.dumps(content))
        yield evaluate("--dataset_dir", root, "--layout", "coco")
    bare = make_ddti_xml(folder / "ddti")
    for path in bare.glob("*.xml"):
        path.write_text("<case><mark><image>1</image><svg>[{</svg></mark>")
    yield evaluate("--dataset_dir", bare)
    good = make_plain(folder / "good", 8)
    for option in (
        "layout=busi",
        "layout=coco",
        "layout=datalist",
        "layout=x",
        "split=everything",
        "objects=none",
    ):
        yield evaluate("--dataset_dir", good, f"--{option}")
    yield evaluate("--dataset_dir", f"['{good}','{folder / 'gone'}']")
    yield evaluate("--dataset_dir", f"['{good}',7]")
    yield evaluate("--dataset_dir", good, "--output_dir", good)
    yield evaluate("--dataset_dir", good, "--output_dir", good / "masks")
    yield train("--dataset_dir", good, "--repeats", "[1,2]")
    yield train("--dataset_dir", good, "--validation_fraction", "0.7", "--test_fraction", "0.7")
    yield train("--dataset_dir", good, "--split_rule", "paper")


def _mask(root: Path) -> Path:
    return root / "masks" / NAMES[0]


def _rewrite(path: Path, pixels: Any) -> None:
    Image.fromarray(pixels).save(path)


def _black(root: Path) -> None:
    for path in root.glob("masks/*"):
        _rewrite(path, np.zeros(disc().shape, np.uint8))


def _rings(root: Path) -> None:
    for path in root.glob("masks/*"):
        _rewrite(path, disc(radius=20) & ~disc(radius=18))


def _inverted(root: Path) -> None:
    for path in root.glob("masks/*"):
        _rewrite(path, ~disc())


ODD_SETS: dict[str, Any] = {
    "no_mask": lambda root: _mask(root).unlink(),
    "no_image": lambda root: (root / "images" / NAMES[0]).unlink(),
    "no_masks": lambda root: shutil.rmtree(root / "masks"),
    "none": lambda root: [shutil.rmtree(root / part) for part in ("images", "masks")],
    "smaller": lambda root: _rewrite(_mask(root), disc((30, 36), 8)),
    "grey": lambda root: _rewrite(_mask(root), speckle(1)),
    "black": _black,
    "rings": _rings,
    "inverted": _inverted,
    "page": lambda root: _mask(root).write_bytes(PAGE),
    "cut": lambda root: (root / "images" / NAMES[0]).write_bytes(b"\x89PNG\r\n\x1a\n"),
    "twice": lambda root: save(root / "images" / "case_0.bmp", speckle(9)),
    "pipe": lambda root: (_mask(root).unlink(), os.mkfifo(_mask(root))),
    "circle": lambda root: (_mask(root).unlink(), _mask(root).symlink_to(NAMES[0])),
    "folder": lambda root: (_mask(root).unlink(), _mask(root).mkdir()),
    "slices": lambda root: (
        _mask(root).unlink(),
        Image.fromarray(PIXELS).save(
            root / "masks" / "case_0.tif", save_all=True, append_images=[Image.fromarray(PIXELS)]
        ),
    ),
    "two_layouts": lambda root: save(root / "x_mask.png", disc()) and save(root / "x.png", speckle(3)),
}

ENTRY = {"image": "images/case_0.png", "label": "masks/case_0.png"}

DATALISTS = (
    "",
    "[]",
    "{}",
    '{"training": {}, "test": 7}',
    '{"test": []}',
    '{"test": ["images/case_0.png"]}',
    '{"test": [{"image": "images/case_0.png"}]}',
    '{"test": [{"image": "images/gone.png", "label": "masks/case_0.png"}]}',
    '{"test": [{"image": ["images/case_0.png"], "label": "masks/case_0.png"}]}',
    '{"test": [{"image": "images/case_0.png", "label": 7}]}',
    '{"test": [{"image": "images/case_0.png", "label": []}]}',
    '{"test": [{"image": "images/case_0.png", "label": "masks/case_0.png", "frame": "x"}]}',
    '{"test": [{"image": "images/case_0.png", "label": "masks/case_0.png", "outlines": 7, "group": []}]}',
    json.dumps({"test": [ENTRY], "root": 7}),
    json.dumps({"test": [ENTRY], "seed": "x"}),
    json.dumps({"test": [ENTRY, ENTRY]}),
    json.dumps({"test": [{**ENTRY, "masks": "maybe"}]}),
    json.dumps({"test": [{**ENTRY, "subgroup": "x"}]}),
    "[" * 100_000,
)


def _set(part: str, key: str, value: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        for item in content[part]:
            item[key] = value

    return change


COCO: dict[str, Any] = {
    "no_file": _set("images", "file_name", "gone.png"),
    "no_name": _set("images", "file_name", None),
    "outside": _set("images", "file_name", "../../../etc/passwd"),
    "no_ids": _set("annotations", "image_id", 99),
    "no_outlines": _set("annotations", "segmentation", []),
    "numbers": _set("annotations", "segmentation", 7),
    "texts": _set("annotations", "segmentation", [["a", "b"]]),
    "runs": _set("annotations", "segmentation", {"size": [9, 9], "counts": [1, 2]}),
    "packed": _set("annotations", "segmentation", {"size": [60, 72], "counts": "\x00"}),
    "large": _set("annotations", "segmentation", {"size": [10**6, 10**6], "counts": [0, 10**12]}),
    "far": _set("annotations", "segmentation", [[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]]),
    "no_images": lambda content: content.update(images=[]),
    "no_lists": lambda content: content.update(images={}, annotations={}),
    "other": lambda content: content.update(coco_content(["gone.png"], [[1, 1, 2, 2, 3, 3]])),
}


def resume_cases(folder: Path) -> Iterator[Case]:
    """Folders of runs from which something is missing, or that something else was written into."""
    folder.mkdir()
    good = folder / "good"
    words = [word for word in train().words[:-1] if word] + [str(good)]
    code, printed = run(words, folder / "log")
    if code:
        raise SystemExit(printed)
    for name, change in ODD_RUNS.items():
        copy = shutil.copytree(good, folder / name)
        change(copy)
        yield train("--epochs", "2", "--resume", copy)
    yield train("--resume", folder)
    yield train("--resume", folder / "gone")
    yield train("--resume", good / "run.json")
    yield train("--resume", "/dev/null")
    yield train("--resume", good, "--image_size", "128")
    yield train("--resume", good, "--preset", "vit_b")
    yield train("--epochs", "1", "--resume", good)
    yield train("--output_dir", shutil.copytree(folder / "good", folder / "taken"), "--dataset_dir", folder)


def _settings(**changes: Any) -> Any:
    def change(run_folder: Path) -> None:
        file = run_folder / "run.json"
        content = json.loads(file.read_text())
        content["settings"].update(changes)
        file.write_text(json.dumps(content))

    return change


def _checkpoint(change: Any) -> Any:
    def write(run_folder: Path) -> None:
        file = run_folder / "checkpoint_last.pt"
        content = torch.load(file, weights_only=True)
        torch.save(change(content), file)

    return write


def _first_tensor_of_nan(content: dict[str, Any]) -> dict[str, Any]:
    for value in content.values():
        if isinstance(value, dict):
            for tensor in value.values():
                if torch.is_tensor(tensor) and tensor.is_floating_point():
                    tensor.fill_(float("nan"))
                    return content
    return content


ODD_RUNS: dict[str, Any] = {
    "no_settings": lambda run_folder: (run_folder / "run.json").unlink(),
    "settings_list": lambda run_folder: (run_folder / "run.json").write_text("[]"),
    "settings_none": lambda run_folder: (run_folder / "run.json").write_text("{}"),
    "settings_cut": lambda run_folder: (run_folder / "run.json").write_text('{"settings": {"seed"'),
    "settings_page": lambda run_folder: (run_folder / "run.json").write_bytes(PAGE),
    "other_seed": _settings(seed=12345),
    "other_types": _settings(seed="0", batch_size=[2]),
    "no_list": lambda run_folder: (run_folder / "datalist.json").unlink(),
    "list_page": lambda run_folder: (run_folder / "datalist.json").write_bytes(PAGE),
    "list_empty": lambda run_folder: (run_folder / "datalist.json").write_text("{}"),
    "list_other": lambda run_folder: (run_folder / "datalist.json").write_text('{"training": [{"name": 1}]}'),
    "no_checkpoint": lambda run_folder: (run_folder / "checkpoint_last.pt").unlink(),
    "checkpoint_page": lambda run_folder: (run_folder / "checkpoint_last.pt").write_bytes(PAGE),
    "checkpoint_empty": lambda run_folder: (run_folder / "checkpoint_last.pt").write_bytes(b""),
    "checkpoint_weights": lambda run_folder: shutil.copy(
        run_folder / "model.pt", run_folder / "checkpoint_last.pt"
    ),
    "checkpoint_cut": lambda run_folder: os.truncate(run_folder / "checkpoint_last.pt", 100_000),
    "checkpoint_nothing": _checkpoint(lambda content: {}),
    "checkpoint_list": _checkpoint(lambda content: [1]),
    "checkpoint_texts": _checkpoint(lambda content: dict.fromkeys(content, "x")),
    "checkpoint_none": _checkpoint(lambda content: dict.fromkeys(content)),
    "checkpoint_empties": _checkpoint(lambda content: {key: {} for key in content}),
    "checkpoint_half": _checkpoint(lambda content: dict(list(content.items())[: len(content) // 2])),
    "checkpoint_nan": _checkpoint(_first_tensor_of_nan),
    "checkpoint_folder": lambda run_folder: (
        (run_folder / "checkpoint_last.pt").unlink(),
        (run_folder / "checkpoint_last.pt").mkdir(),
    ),
}


def place_cases(folder: Path) -> Iterator[Case]:
    """Places that cannot be written to, disks that are full, and odd locales and masks of modes."""
    folder.mkdir()
    image = folder / "bilder" / "a.png"
    save(image, PIXELS)
    file = written(folder / "file", "")
    many = folder / "many"
    for number in range(3):
        save(many / f"{number}.png", speckle(number, (300, 400)))
    data = make_plain(folder / "data", 4)
    places: list[object] = [file, file / "below", "/proc/results", "/sys/results", "/dev/null", "/dev/full"]
    places += [folder / ("n" * 300), folder / "/".join(["d" * 200] * 30)]
    for place in places:
        yield infer("--input", image, "--output_dir", place)
        yield evaluate("--phantoms", "8", "--output_dir", place)
        yield batch("--input", image, "--output", place)
    for place in places[:4]:
        yield train("--output_dir", place)
    for limit in (0, 200, 5000):
        yield infer("--input", many, largest_file=limit)
        yield batch("--input", many, largest_file=limit, may_work=limit == 5000)  # its files are smaller
        yield evaluate("--dataset_dir", data, largest_file=limit)
        yield train("--dataset_dir", make_plain(folder / f"data{limit}", 8), largest_file=limit)
    yield train("--dataset_dir", make_plain(folder / "data_large", 8), largest_file=10**6)
    named = folder / "Brüste und 乳房.png"
    shutil.copy(image, named)
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for variables in (
        plain,
        {**plain, "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "xx_XX.latin1", "TZ": "Nowhere"},
    ):
        yield infer("--input", folder / "bilder", environment=variables, may_work=True)
        yield infer("--input", named, environment=variables, may_work=True)
        yield infer("--input", folder / "fehlt-é.png", environment=variables)
    yield infer("--input", image, umask=0o777, may_work=True)
    yield infer("--input", image, environment={"HOME": "/nowhere", "TMPDIR": "/nowhere"}, may_work=True)
    yield infer("--input", image, environment={"COLUMNS": "0", "LINES": "x"}, may_work=True)
    yield infer("--input", image, environment={"OMP_NUM_THREADS": "-3"}, may_work=True)
    for language, charmap in (("de_DE", "ISO-8859-1"), ("ja_JP", "EUC-JP")):
        variables = made_locale(folder / "locales", language, charmap)
        yield infer("--input", folder / "bilder", environment=variables, may_work=True)
        yield infer("--input", named, environment=variables, may_work=True)
        yield infer("--input", folder / "fehlt-é.png", environment=variables)


def made_locale(folder: Path, language: str, charmap: str) -> dict[str, str]:
    """Compile a locale that is not UTF-8, and return the variables that choose it.

    Where the system has no sources of locales, the C library takes ``C`` in its place.
    """
    folder.mkdir(exist_ok=True)
    name = f"{language}.{charmap}"
    if tool := shutil.which("localedef"):
        words = [tool, "-f", charmap, "-i", language, str(folder / name)]
        subprocess.run(words, capture_output=True, check=False)
    return {"LOCPATH": str(folder), "LC_ALL": name, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
