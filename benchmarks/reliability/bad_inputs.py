"""Bad inputs through the real command line: one sentence, exit code 1, nothing written."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from commands import BUNDLE, run
from PIL import Image
from trials import run_trials

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from bad_commands import manifest_cases, tool_cases
from bad_files import image_cases, prediction_cases, prompts_cases, weight_cases
from bad_folders import data_cases, place_cases, resume_cases
from cases import EVALUATION, INFERENCE, OUT, TRAINING, Case

from bombs import BOMBS
from fuzzing import FORMATS, is_sentence, write_seed
from hostile_files import HOSTILE

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


WITHIN_LIMITS = "/deflated.dcm"
"""Unfolds to less than an image of the limit; a test with a lower limit has it refused."""

SECONDS = 240


def all_cases(folder: Path) -> list[Case]:
    """Return every case; one that is added goes to the end of its kind, and a kind to the end of all."""
    cases = [
        Case([*words, "--output_dir", OUT], may_work=words[-1].endswith(WITHIN_LIMITS))
        for words in option_lines(folder)
    ]
    kinds = (image_cases, prompts_cases, weight_cases, prediction_cases)
    for make in (*kinds, data_cases, resume_cases, place_cases, manifest_cases, tool_cases):
        cases += make(folder / make.__name__)
    return cases


def option_lines(folder: Path) -> list[list[str]]:
    """Return command lines that are wrong in one option, file or name."""
    image = folder / "a.png"
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(image)
    lines = [[*INFERENCE, "--input", str(image), f"--{key}={value}"] for key in OPTIONS for value in NUMBERS]
    lines = [line for line in lines if line[-1] not in RIGHT]
    lines += [[*start, f"--{key}={value}"] for key, start in OTHERS.items() for value in WRONG]
    lines += [["run", "trainnig", *TRAINING[2:]], ["run", "evaluation", *EVALUATION[2:]]]
    lines += [[*TRAINING, "--no_key=1"]]
    for number, text in enumerate(PROMPTS):
        path = folder / f"prompts{number}.json"
        path.write_text(text)
        lines.append([*INFERENCE, "--input", str(image), "--prompts", str(path)])
    for name, write in BOMBS.items():
        write(folder / name)
        lines.append([*INFERENCE, "--input", str(folder / name)])
    hostile = folder / "hostile"
    hostile.mkdir()
    for name, write in HOSTILE.items():
        if name.startswith(("pipe", "loop", "folder", "endless", "socket", "list", "names", "itself.n")):
            write(hostile / name)
            lines.append([*INFERENCE, "--input", str(hostile / name)])
    for name in FORMATS:
        content = write_seed(folder / f"cut_{name}")
        for share in (0.0, 0.2, 0.6):
            path = folder / f"{share}_{name}"
            path.write_bytes(content[: int(len(content) * share)])
            lines.append([*INFERENCE, "--input", str(path)])
    for text in ("", "{", '{"preset": "x"}', '{"preset": []}', '{"preset": "vit_t", "image_size": 1000000}'):
        weights = folder / f"w{len(lines)}.pt"
        weights.write_bytes(b"PK\3\4")
        weights.with_suffix(".json").write_text(text)
        lines.append([*INFERENCE, "--input", str(image), "--checkpoint", str(weights)])
    return lines


def outcome(case: Case, folder: Path, number: int) -> str:
    """Run a case; return what is wrong with its end, or nothing."""
    out = folder / f"out{number}"
    words = [word.replace(OUT, str(out)) for word in case.words]
    if case.environment:
        try:
            ended = subprocess.run(
                [sys.executable, "-m", case.module, *words],
                cwd=BUNDLE,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **case.environment},
                capture_output=True,
                timeout=10 * SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{case.module} {words} {dict(case.environment)}: did not end"
        code: int | None = ended.returncode
        printed = (ended.stdout + ended.stderr).decode(errors="replace")
    else:
        limited = case.largest_file is not None or case.umask is not None
        prepare = case.prepare if limited else None
        code, printed = run(words, folder / "log", SECONDS, case.module, prepare)
    what = f"{case.module} {[word[:80] for word in case.words]}"
    if code == 0 and case.may_work and "Traceback" not in printed:
        return ""
    sentence = re.split(r"error: |^Problem: ", printed, flags=re.MULTILINE)[-1].strip()
    if code not in (1, 2) or "Traceback" in printed or not is_sentence(sentence):
        return f"{what}: exit code {code}, {printed[-300:]}"
    return f"{what}: wrote masks" if list(out.glob("masks/*")) else ""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, help="the trials before this one (default: all)")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cases = all_cases(Path(name))

        def trial(number: int) -> str:
            return outcome(cases[number], Path(name), number)

        run_trials(min(options.trials or len(cases), len(cases)), options.state, trial, "bad inputs")


if __name__ == "__main__":
    main()
