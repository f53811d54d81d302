"""TensorRT is refused without a GPU or its packages; MONAI is told to compile the image encoder alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks import trt_compiler

from lmsfe_sam import LMSFESAM
from lmsfe_sam.errors import InputError, find_input_error
from lmsfe_sam.inference import tensorrt
from lmsfe_sam.model.checkpoints import save_weights


def test_without_a_gpu_it_is_refused_before_anything_else(bundle_root: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=[
            str(bundle_root / "configs" / f"{name}.json") for name in ("inference", "inference_trt")
        ],
        workflow_type="inference",
        bundle_root=str(bundle_root),
        input=str(bundle_root / "docs" / "failures.png"),
        device="cpu",
    )
    with pytest.raises(RuntimeError) as caught:
        workflow.initialize()
    sentence = str(find_input_error(caught.value))
    assert sentence.startswith("device is 'cpu' and TensorRT needs a GPU: give --device cuda, or leave")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"needs a GPU, and this machine has none"):
        tensorrt.check("cuda", "fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None if name == "polygraphy" else object())
    with pytest.raises(InputError, match=r"TensorRT needs polygraphy: run pip install polygraphy, or leave"):
        tensorrt.check(torch.device("cuda:0"), "fp16")
    with pytest.raises(InputError, match=r"trt_precision is 'int8': give one of fp32, tf32, fp16, bf16"):
        tensorrt.check("cuda", "int8")


def test_the_config_keeps_the_options_of_inference(bundle_root: Path) -> None:
    parser = ConfigParser()
    parser.read_config(
        [str(bundle_root / "configs" / f"{name}.json") for name in ("inference", "inference_trt")]
    )
    for reference in set(re.findall(r"[@%]([\w#]+)", str(parser.get()))):
        assert reference in parser, reference
    assert parser["network"]["_target_"] == "lmsfe_sam.inference.tensorrt.tensorrt_network"


def test_monai_compiles_the_image_encoder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LMSFESAM(image_size=64).eval()
    save_weights(model, tmp_path / "a.pt")
    monkeypatch.setattr(tensorrt, "check", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trt_compiler, "trt_imported", True)
    monkeypatch.setattr(trt_compiler, "polygraphy_imported", True)
    compiled: Any = tensorrt.tensorrt_network(
        LMSFESAM(image_size=64), str(tmp_path / "a.pt"), "cpu", "fp16", 4
    )
    engine = compiled.image_encoder._trt_compiler
    assert engine.plan_path == f"{tmp_path}/a.pt.image_encoder.plan"
    assert (engine.precision, engine.dynamic_batchsize, engine.input_names) == ("fp16", [1, 1, 4], ["image"])
    flat = [torch.zeros(1), torch.ones(1), torch.ones(2), torch.ones(3)]
    features, skips = trt_compiler.parse_groups(flat, engine.output_lists)
    assert features is flat[0] and all(a is b for a, b in zip(skips, flat[1:], strict=True))
    assert trt_compiler.parse_groups(flat[:1], engine.output_lists)[1] == []  # without a local encoder
