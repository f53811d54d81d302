"""Bad inputs through the real command line: one sentence, exit code 1, nothing written."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from commands import run
from PIL import Image
from trials import run_trials

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from bombs import BOMBS
from fuzzing import FORMATS, is_sentence, write_seed
from hostile_files import HOSTILE

START = ["--config_file", "configs/inference.json", "--device", "cpu"]

NUMBERS = ["-1", "0.5", "nan", "1e999", "'x'", "[1]", "{}", "null", "True", "9" * 5000, "x" * 100000]
OPTIONS = ["slice", "mode", "zoom_share", "zoom_below", "window_size", "window_overlap"]
OPTIONS += ["window_batch", "output_ext", "max_pixels"]
OBJECTS = [
    "1",
    "[]",
    '[{"box": [9,9,1,1]}]',
    '[{"box": [1e9,0,2e9,1]}]',
    '[{"points": [[1]]}]',
    '[{"labels": [1]}]',
]
PROMPTS = ["", "{", "[]", "7", "[" * 99999, '{"b.png": {"objects": [{"box": [0,0,1,1]}]}}']
PROMPTS += [f'{{"a.png": {{"objects": {objects}}}}}' for objects in OBJECTS]
RIGHT = {"--slice=null", "--window_size=null", "--zoom_share=0.5", "--zoom_below=0.5", "--window_overlap=0.5"}


TRAINING = ["training", "--config_file", "configs/train.json", "--device", "cpu"]
EVALUATION = [
    "evaluating",
    "--config_file",
    "['configs/train.json','configs/evaluate.json']",
    "--device",
    "cpu",
]
TRAINED = [
    "seed",
    "epochs",
    "batch_size",
    "learning_rate",
    "preset",
    "patience",
    "phantoms",
    "image_size",
    "amp",
]
TRAINED += ["image_size", "threads", "clip_norm", "max_pixels", "dataset_dir", "resume"]
EVALUATED = ["metric_size", "bootstrap", "gallery", "split", "num_workers", "checkpoint", "prompt_modes"]
EVALUATED += ["predictions"]
OTHERS = {**dict.fromkeys(TRAINED, TRAINING), **dict.fromkeys(EVALUATED, EVALUATION)}
WRONG = ["-1", "nan", "1e999", "'x'", "[[1]]", "{}", "9" * 5000, "x" * 100000]
"""Wrong for every one of them."""


def cases(folder: Path) -> list[list[str]]:
    """Return the command lines, each wrong in one way."""
    image = folder / "a.png"
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(image)
    lines = [["--input", str(image), f"--{key}={value}"] for key in OPTIONS for value in NUMBERS]
    lines = [line for line in lines if line[2] not in RIGHT]
    lines += [[*start, f"--{key}={value}"] for key, start in OTHERS.items() for value in WRONG]
    lines += [["trainnig", *TRAINING[1:]], ["evaluation", *EVALUATION[1:]], [*TRAINING, "--no_key=1"]]
    for number, text in enumerate(PROMPTS):
        path = folder / f"prompts{number}.json"
        path.write_text(text)
        lines.append(["--input", str(image), "--prompts", str(path)])
    for name, write in BOMBS.items():
        write(folder / name)
        lines.append(["--input", str(folder / name)])
    hostile = folder / "hostile"
    hostile.mkdir()
    for name, write in HOSTILE.items():
        if name.startswith(("pipe", "loop", "folder", "endless", "socket", "list", "names", "itself.n")):
            write(hostile / name)
            lines.append(["--input", str(hostile / name)])
    for name in FORMATS:
        content = write_seed(folder / f"cut_{name}")
        for share in (0.0, 0.2, 0.6):
            path = folder / f"{share}_{name}"
            path.write_bytes(content[: int(len(content) * share)])
            lines.append(["--input", str(path)])
    for text in ("", "{", '{"preset": "x"}', '{"preset": []}', '{"preset": "vit_t", "image_size": 1000000}'):
        weights = folder / f"w{len(lines)}.pt"
        weights.write_bytes(b"PK\3\4")
        weights.with_suffix(".json").write_text(text)
        lines.append(["--input", str(image), "--checkpoint", str(weights)])
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, help="the first so many (default: all)")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = cases(Path(name))

        def trial(number: int) -> str:
            words = ["run", *(START if lines[number][0] == "--input" else []), *lines[number]]
            words += ["--output_dir", f"{name}/out{number}"]
            code, printed = run(words, Path(name, "log"), 120)
            what = json.dumps([word[:80] for word in lines[number]])
            sentence = printed.rpartition("error: ")[2].strip()
            if code != 1 or "Traceback" in printed or not is_sentence(sentence):
                return f"{what}: exit code {code}, {printed[-300:]}"
            return f"{what}: wrote masks" if list(Path(name, f"out{number}").glob("masks/*")) else ""

        run_trials(min(options.trials or len(lines), len(lines)), options.state, trial, "bad inputs")


if __name__ == "__main__":
    main()
