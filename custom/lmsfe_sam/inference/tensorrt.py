"""Inference with the image encoder as a TensorRT engine, by MONAI's `trt_compile`.

The image encoder takes most of the time. The prompt encoder and the mask decoder, whose input changes with
the prompts, stay in PyTorch.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import load_weights
from lmsfe_sam.model.network import LMSFESAM

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")

PACKAGES = ("tensorrt", "polygraphy", "onnx", "onnxscript")
"""What `trt_compile` needs to build an engine."""


def check(device: str | torch.device, precision: str) -> None:
    """Refuse settings and machines that cannot run TensorRT.

    Args:
        device: where the network runs.
        precision: of the engine, one of `PRECISIONS`.

    Raises:
        InputError: no GPU, a missing package, or an unknown precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"trt_precision is {precision!r}: give one of {', '.join(PRECISIONS)}.")
    remedy = "or leave configs/inference_trt.json out"
    if torch.device(device).type != "cuda":
        raise InputError(f"device is {str(device)!r} and TensorRT needs a GPU: give --device cuda, {remedy}.")
    if not torch.cuda.is_available():
        raise InputError(f"TensorRT needs a GPU, and this machine has none: use another machine, {remedy}.")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"TensorRT needs {', '.join(missing)}: run pip install {' '.join(missing)}, {remedy}."
        )


def tensorrt_network(
    network: LMSFESAM, checkpoint: str, device: str | torch.device, precision: str, batch_size: int
) -> nn.Module:
    """Load weights into a network and replace its image encoder by a TensorRT engine.

    The engine is built at the first image, which takes minutes, and kept beside the checkpoint as
    ``NAME.pt.image_encoder.plan`` for later runs. It is built again when the checkpoint is newer.

    Args:
        network: any preset.
        checkpoint: its weights.
        device: a GPU.
        precision: of the engine, one of `PRECISIONS`.
        batch_size: the largest batch of images.

    Returns:
        The network.

    Raises:
        InputError: as `check`, or the weights do not fit.
    """
    from monai.networks import trt_compile

    check(device, precision)
    loaded = load_weights(network, checkpoint).to(device)
    arguments = {
        "precision": precision,
        "dynamic_batchsize": [1, 1, batch_size],
        "output_lists": [[], [-1]],  # The encoder returns the embedding and a list of skips.
    }
    compiled: nn.Module = trt_compile(loaded, str(checkpoint), arguments, submodule="image_encoder")
    return compiled
