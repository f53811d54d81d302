"""The CNN backbone of the local encoder, "a CNN backbone network" in section 1.1: plain, of timm, or both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD

PLAIN = "plain"
BESIDE = f"{PLAIN}+"
"""What the name of a network of timm begins with that stands beside the plain backbone."""

BESIDE_SCALE = 0.75
"""Size of the image that such a network sees, as a share of the input's."""

TIMM_NAMES = ("image_encoder.local_encoder.stages.net.", "image_encoder.local_encoder.stages.beside.net.")
"""Where a checkpoint of ours has the tensors of a network of timm."""

STRIDES = (2, 4, 8, 16)
"""The features that the local encoder needs: stem, x1, x2 and x3 of section 1.1."""


class PlainBackbone(nn.Sequential):
    """A stem and three stages, each halving the size; the plain reading of section 1.1.

    Args:
        widths: channels of the stem and the three stages.
        blocks: residual blocks behind each of the four.
    """

    def __init__(self, widths: tuple[int, int, int, int], blocks: tuple[int, int, int, int]) -> None:
        inputs = (3, *widths[:-1])
        super().__init__(
            *(
                nn.Sequential(ConvNormAct(i, o, 3, stride=2), *[ResidualBlock(o) for _ in range(n)])
                for i, o, n in zip(inputs, widths, blocks, strict=True)
            )
        )
        self.widths = widths

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of ``image (B, 3, H, W)`` at 1/2, 1/4, 1/8 and 1/16."""
        features: list[Tensor] = []
        for stage in self:
            image = stage(image)
            features.append(image)
        return features


class TimmBackbone(nn.Module):
    """A network of timm, cut off after its features at 1/16 of the input.

    Its weights are random until `load_classifier` is given others.

    Args:
        name: of the network in timm, such as ``tf_efficientnet_lite0``.
        image_size: side of its input in pixels.
        exact: the sides of its features are exactly those of the input divided by `STRIDES`.

    Raises:
        InputError: timm is missing or has no such network, or it has no such features of such images.
    """

    def __init__(self, name: str, image_size: int = 256, exact: bool = True) -> None:
        super().__init__()
        self.name = name
        self.net: nn.Module
        self.net, self.widths = _timm_features(name, image_size, exact)
        # The input comes with SAM's normalisation, and the weights were trained with timm's.
        config: Any = self.net.default_cfg
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        sam_mean, sam_std = torch.tensor(PIXEL_MEAN) / 255, torch.tensor(PIXEL_STD) / 255
        self.register_buffer("scale", (sam_std / std)[:, None, None], persistent=False)
        self.register_buffer("shift", ((sam_mean - mean) / std)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of ``image (B, 3, H, W)`` at 1/2, 1/4, 1/8 and 1/16."""
        image = image * self.scale + self.shift  # type: ignore[operator]
        if torch.jit.is_scripting() or image.device.type != "cpu":
            return self.net(image)
        # A processor trains depth-wise convolutions slower in bfloat16 than in single precision.
        with torch.autocast("cpu", enabled=False):
            return self.net(image)


class PairedBackbone(nn.Module):
    """The plain backbone with a network of timm beside it, whose features are projected and added.

    The projections start at zero, so that at first this is the plain backbone: weights trained with
    that one go on from where they were. Outlines are the plain one's matter, so that the network of
    timm sees the image at `BESIDE_SCALE` of its size, in about half the time.

    Args:
        name: of the network in timm.
        widths, blocks: of the plain backbone.
        image_size: side of the input in pixels.

    Raises:
        InputError: as `TimmBackbone`.
    """

    def __init__(
        self,
        name: str,
        widths: tuple[int, int, int, int],
        blocks: tuple[int, int, int, int],
        image_size: int = 256,
    ) -> None:
        super().__init__()
        self.plain = PlainBackbone(widths, blocks)
        self.beside = TimmBackbone(name, int(image_size * BESIDE_SCALE), exact=False)
        self.project = nn.ModuleList(
            zero_conv(theirs, ours) for theirs, ours in zip(self.beside.widths, widths, strict=True)
        )
        self.widths = widths
        self.beside_scale = BESIDE_SCALE

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of ``image (B, 3, H, W)`` at 1/2, 1/4, 1/8 and 1/16."""
        features = self.plain(image)
        small = F.interpolate(image, scale_factor=self.beside_scale, mode="bilinear", align_corners=False)
        beside = self.beside(small)
        for i, project in enumerate(self.project):
            size = features[i].shape[-2:]
            added = F.interpolate(project(beside[i]), size=size, mode="bilinear", align_corners=False)
            features[i] = features[i] + added
        return features


def build_backbone(
    name: str,
    widths: tuple[int, int, int, int],
    blocks: tuple[int, int, int, int],
    image_size: int = 256,
) -> PlainBackbone | TimmBackbone | PairedBackbone:
    """Build ``plain``, which has these widths and blocks, a network of timm, or ``plain+`` and its name.

    Raises:
        InputError: as `TimmBackbone`.
    """
    if name == PLAIN:
        return PlainBackbone(widths, blocks)
    if name.startswith(BESIDE):
        return PairedBackbone(name.removeprefix(BESIDE), widths, blocks, image_size)
    return TimmBackbone(name, image_size)


def require_timm(backbone: str) -> Any:
    """Return the module timm, which any backbone but the plain one needs.

    Raises:
        InputError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"backbone '{backbone}' needs the package timm, which cannot be imported ({error}): "
            "run pip install timm."
        ) from error
    return timm


def _timm_features(name: str, image_size: int, exact: bool) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """Build timm's network up to 1/16, and return how many channels its four features have."""
    timm = require_timm(name)
    from timm.models.efficientnet import EfficientNetFeatures
    from timm.models.mobilenetv3 import MobileNetV3Features

    known = timm.models.is_model_pretrained if "." in name else timm.is_model  # timm ignores unknown tags
    if not known(name):
        raise InputError(
            f"backbone '{name or BESIDE}' is unknown: give 'plain', a network's name in timm, or both as "
            "'plain+NAME'."
        )
    try:
        with torch.device("meta"):  # without numbers: it may be large, and is only asked for its strides
            network: Any = timm.create_model(name, features_only=True)
        strides = [row["reduction"] for row in network.feature_info.info]
    except Exception:  # timm raises what each network's own code happens to raise
        strides = []
    if not set(STRIDES) <= set(strides):
        raise _without_features(name)
    indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
    try:
        with torch.device("meta"), torch.no_grad():
            network = timm.create_model(name, features_only=True, out_indices=indices).eval()
            sides = [feature.shape[2:] for feature in network(torch.zeros(1, 3, image_size, image_size))]
    except Exception as error:
        raise InputError(
            f"backbone '{name}' does not take images of {image_size} pixels, which it would see: "
            "give another --image_size or --backbone."
        ) from error
    if exact and sides != [(image_size // stride,) * 2 for stride in STRIDES]:
        raise _without_features(name)
    net: Any = timm.create_model(name, features_only=True, out_indices=indices)
    if isinstance(net, EfficientNetFeatures | MobileNetV3Features):  # timm keeps the later stages there
        del net.blocks[net.feature_info.get_dicts()[-1]["stage"] :]
    first, second, third, fourth = net.feature_info.channels()
    return net, (first, second, third, fourth)


def _without_features(name: str) -> InputError:
    return InputError(
        f"backbone '{name}' does not give features at 1/2, 1/4, 1/8 and 1/16 of the input: "
        "give a convolutional network, such as tf_efficientnet_lite0."
    )


def load_classifier(backbone: nn.Module | None, state: dict[str, Tensor]) -> None:
    """Load the stages of a classification network, or of a checkpoint of ours, that the backbone has.

    The tensors are taken by their names, or, where these are another library's, by their order,
    which efficientnet_pytorch's and timm's EfficientNets share. How many batches a batch norm has seen
    does not matter to it, and old files do not say.

    Raises:
        InputError: the backbone is not one of timm's, or the tensors are of another network.
    """
    if isinstance(backbone, PairedBackbone):
        backbone = backbone.beside
    if not isinstance(backbone, TimmBackbone):
        raise InputError(
            "backbone_weights are for a network of timm, which this one has not: name it with --backbone."
        )
    for prefix in TIMM_NAMES:
        ours = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        state = ours or state
    state, target = _without_counters(state), _without_counters(backbone.net.state_dict())
    if target.keys() <= state.keys():
        chosen = {name: state[name] for name in target}
    else:
        chosen = dict(zip(target, state.values(), strict=False))
    fits = len(chosen) == len(target) and all(chosen[name].shape == target[name].shape for name in target)
    if not fits or (state.keys() != target.keys() and not _is_of(backbone.name, state, target)):
        raise InputError(
            f"backbone_weights hold another network than --backbone names, '{backbone.name}': "
            "give the file of that network."
        )
    backbone.net.load_state_dict(chosen, strict=False)


def _is_of(name: str, state: dict[str, Tensor], stages: Iterable[str]) -> bool:
    """Whether tensors are of timm's network of this name; larger ones may begin with the same stages."""
    with torch.device("meta"):
        network: Any = require_timm(name).create_model(name)
    classifier = network.default_cfg["classifier"]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    whole = _without_counters(network.state_dict())
    body = {name: whole[name] for name in whole if not name.startswith(heads)}
    if set(stages) <= state.keys():
        known = state.keys() <= {*whole, *stages}
        return known and all(state[name].shape == body[name].shape for name in body.keys() & state.keys())
    same = all(one.shape == other.shape for one, other in zip(body.values(), state.values(), strict=False))
    return same and len(state) in (len(whole), len(body))


def _without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if tensor.ndim or tensor.is_floating_point()}


def zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 1 x 1 convolution with weights and biases of zero."""
    conv = nn.Conv2d(inputs, outputs, 1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, ReLU, on ``(B, inputs, H, W)``.

    Args:
        inputs, outputs: channels.
        kernel: side of the kernel, odd; padded by half of it.
        stride: of the convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """ResNet's basic block: two 3 x 3 convolutions and a skip; ``(B, channels, H, W)`` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; the shape stays."""
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))))
