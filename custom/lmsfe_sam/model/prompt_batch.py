"""Group the prompts of a batch of images by their number of tokens, for the decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmsfe_sam.prompts.prompt import Prompts


class PromptGroup(NamedTuple):
    """Objects that all have the same number of tokens.

    Attributes:
        flat_index: ``(M,)``, that of each object in the batch's flat order.
        image: ``(M,)``, the image it is on.
        prompts: boxes ``(M, 4)``, points ``(M, K, 2)``, labels ``(M, K)`` and masks ``(M, h, w)`` without
            any padding; all None for objects without a prompt.
    """

    flat_index: Tensor
    image: Tensor
    prompts: Prompts


def flatten_prompts(prompts: Prompts, batch: int, device: torch.device) -> tuple[Prompts, int]:
    """Check the prompts of a batch against each other and join the axes of images and objects.

    Args:
        prompts: of N objects in each of B images.
        batch: number of images B.
        device: of the result.

    Returns:
        Prompts of ``B * N`` objects in single precision, object n of image b at ``b * N + n``, and N. N is
        1, and the prompts are one empty box an image, where no prompt is given.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if (prompts.points is None) != (prompts.point_labels is None):
        raise ValueError("points and point_labels belong together: give both or neither.")
    given = prompts.given()
    if not given:
        return Prompts(boxes=torch.full((batch, 4), torch.nan, device=device)), 1
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    _check_shapes(batch, shapes)
    per_image = next(iter(shapes.values()))[1]
    if per_image == 0:
        raise ValueError("the prompts hold no object: leave them out for one unprompted object an image.")
    flat = prompts.map(lambda tensor: tensor.to(device=device, dtype=torch.float32).flatten(0, 1))
    return flat, per_image


def lone_clicks(prompts: Prompts) -> Tensor:
    """Which of M objects have one click and nothing else, ``(M,)`` bool."""
    return (prompts.clicks() == 1) & ~prompts.has_box() & (_mask_sizes(prompts)[:, 0] == 0)


def group_prompts(prompts: Prompts, per_image: int) -> list[PromptGroup]:
    """Group objects with the same number of clicks, with or without box and mask.

    Args:
        prompts: of `flatten_prompts`.
        per_image: objects an image.

    Raises:
        ValueError: a mask with some NaN.
    """
    clicks_and_box = torch.stack([prompts.clicks(), prompts.has_box().long()], dim=1)
    kinds = torch.cat([clicks_and_box, _mask_sizes(prompts)], dim=1)
    found, member = kinds.unique(dim=0, return_inverse=True)
    groups = []
    for i, kind in enumerate(found.tolist()):
        index = (member == i).nonzero()[:, 0]
        groups.append(PromptGroup(index, index // per_image, _strip(prompts.select(index), kind)))
    return groups


def _strip(prompts: Prompts, kind: list[int]) -> Prompts:
    """Return the prompts of objects of one kind without padding."""
    clicks, has_box, height, width = kind
    points = labels = None
    if clicks and prompts.points is not None and prompts.point_labels is not None:
        # A stable sort brings the real clicks to the front and leaves their order alone.
        padding = (prompts.point_labels < 0).to(torch.uint8)
        order = padding.argsort(dim=1, stable=True)[:, :clicks]
        labels = prompts.point_labels.gather(1, order).long()
        points = prompts.points.gather(1, order[:, :, None].expand(-1, -1, 2))
    masks = prompts.masks[:, :height, :width] if height and prompts.masks is not None else None
    return Prompts(prompts.boxes if has_box else None, points, labels, masks)


def _mask_sizes(prompts: Prompts) -> Tensor:
    """Return height and width of each object's mask inside its NaN padding, ``(M, 2)``."""
    if prompts.masks is None:
        return torch.zeros(len(prompts), 2, dtype=torch.long, device=prompts.clicks().device)
    known = ~prompts.masks.isnan()
    sizes = torch.stack([known.any(dim=2).sum(dim=1), known.any(dim=1).sum(dim=1)], dim=1)
    if (known.sum(dim=(1, 2)) != sizes.prod(dim=1)).any():
        raise ValueError("masks hold NaN among numbers: an object without a mask prompt is all NaN.")
    return sizes


def _check_shapes(batch: int, shapes: dict[str, tuple[int, ...]]) -> None:
    wanted = {
        "boxes": "(B, N, 4)",
        "points": "(B, N, K, 2)",
        "point_labels": "(B, N, K)",
        "masks": "(B, N, h, w)",
    }
    dimensions = {"boxes": 3, "points": 4, "point_labels": 3, "masks": 4}
    last = {"boxes": 4, "points": 2}
    for name, shape in shapes.items():
        if len(shape) != dimensions[name] or shape[-1] != last.get(name, shape[-1]):
            raise ValueError(f"{name} has shape {shape}, {wanted[name]} is needed.")
        if shape[0] != batch:
            raise ValueError(f"{name} has shape {shape}, but the embedding holds {batch} images.")
    if len({shape[1] for shape in shapes.values()}) > 1:
        raise ValueError(f"prompts name different numbers of objects an image: {shapes}.")
    if "points" in shapes and shapes["points"][:3] != shapes["point_labels"]:
        raise ValueError(f"points and point_labels do not match: {shapes}.")


Ragged = Tensor | list[Tensor] | None


def pad_prompts(
    boxes: Ragged, points: Ragged, point_labels: Ragged, masks: Ragged
) -> tuple[Prompts, list[int] | None]:
    """Pad prompts that come as lists of B tensors to the same number of objects and clicks.

    Returns:
        The prompts as tensors, and the number of objects of each image; None instead of the numbers if
        no prompt came as a list.

    Raises:
        ValueError: the lists disagree about the number of images or objects.
    """
    given = [p for p in (boxes, points, point_labels, masks) if p is not None]
    counts: list[int] | None = None
    if any(not isinstance(p, Tensor) for p in given):
        counts = [len(image) for image in given[0]]
        if any([len(image) for image in p] != counts for p in given):
            raise ValueError("the lists of prompts name different numbers of images or objects an image.")
    padded = Prompts(
        _pad(boxes, torch.nan), _pad(points, 0.0), _pad(point_labels, -1.0), _pad(masks, torch.nan)
    )
    return padded, counts


def _pad(images: Ragged, value: float) -> Tensor | None:
    if images is None or isinstance(images, Tensor):
        return images
    shape = [max(sizes) for sizes in zip(*(image.shape for image in images), strict=True)]
    padded = torch.full([len(images), *shape], value)
    for target, image in zip(padded, images, strict=True):
        target[tuple(slice(size) for size in image.shape)] = image
    return padded
