"""Prompts of a batch of images, brought to the shape in which the network decodes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ObjectPrompts:
    """Prompts of M objects that all have the same number of tokens.

    Attributes:
        index: ``(M,)``, place of each object in the batch's flat order.
        image: ``(M,)``, its image.
        boxes: ``(M, 4)`` or None.
        points: ``(M, K, 2)`` or None, without padding.
        labels: ``(M, K)`` or None.
        masks: ``(M, 1, h, w)`` logits or None.
    """

    index: Tensor
    image: Tensor
    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor | None

    def any(self) -> bool:
        """Whether there is any prompt at all."""
        return self.boxes is not None or self.points is not None or self.masks is not None


@dataclass
class BatchPrompts:
    """Prompts of B images with N objects each, flat: object n of image b is at ``b * N + n``."""

    batch: int
    per_image: int
    device: torch.device
    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor | None

    def _has_box(self) -> Tensor:
        if self.boxes is None:
            return self._nothing().bool()
        return ~self.boxes.isnan().any(dim=-1)

    def _mask_sizes(self) -> Tensor:
        """Height and width of each object's own mask inside its NaN padding, ``(B * N, 2)``."""
        if self.masks is None:
            return torch.stack([self._nothing(), self._nothing()], dim=1)
        known = ~self.masks.isnan()
        sizes = torch.stack([known.any(dim=2).sum(dim=1), known.any(dim=1).sum(dim=1)], dim=1)
        if (known.sum(dim=(1, 2)) != sizes.prod(dim=1)).any():
            raise ValueError("masks hold NaN among numbers: an object without a mask prompt is all NaN.")
        return sizes

    def _clicks(self) -> Tensor:
        if self.labels is None:
            return self._nothing()
        return (self.labels >= 0).sum(dim=-1)

    def _nothing(self) -> Tensor:
        return torch.zeros(self.batch * self.per_image, dtype=torch.long, device=self.device)

    def lone_clicks(self) -> Tensor:
        """``(B * N,)``: objects with one click and nothing else."""
        return (self._clicks() == 1) & ~self._has_box() & (self._mask_sizes()[:, 0] == 0)

    def groups(self) -> list[ObjectPrompts]:
        """Split into groups with the same number of clicks, with or without box and mask."""
        clicks_and_box = torch.stack([self._clicks(), self._has_box().long()], dim=1)
        kinds = torch.cat([clicks_and_box, self._mask_sizes()], dim=1)
        found, member = kinds.unique(dim=0, return_inverse=True)
        return [self._group(kind, member == i) for i, kind in enumerate(found.tolist())]

    def _group(self, kind: list[int], chosen: Tensor) -> ObjectPrompts:
        clicks, has_box, height, width = kind
        index = chosen.nonzero()[:, 0]
        points = labels = None
        if clicks and self.points is not None and self.labels is not None:
            kept = self.labels[index]
            # A stable sort brings the real clicks to the front and leaves their order alone.
            order = (kept < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :clicks]
            labels = kept.gather(1, order)
            points = self.points[index].gather(1, order[:, :, None].expand(-1, -1, 2))
        return ObjectPrompts(
            index,
            index // self.per_image,
            self.boxes[index] if has_box and self.boxes is not None else None,
            points,
            labels,
            self.masks[index, None, :height, :width] if height and self.masks is not None else None,
        )


def flatten_prompts(
    batch: int,
    boxes: Tensor | None,
    points: Tensor | None,
    point_labels: Tensor | None,
    masks: Tensor | None,
    device: torch.device,
) -> BatchPrompts:
    """Check padded prompts against each other and flatten images and objects into one axis.

    Args:
        batch: number of images B.
        boxes: ``(B, N, 4)`` in pixels of the input; a row of NaN is none.
        points: ``(B, N, K, 2)`` in pixels of the input, x before y.
        point_labels: ``(B, N, K)``: 1 inside, 0 outside, -1 padding.
        masks: logits ``(B, N, h, w)``; a map of NaN is none.
        device: of the result.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if (points is None) != (point_labels is None):
        raise ValueError("points and point_labels belong together: give both or neither.")
    given = {"boxes": boxes, "points": points, "point_labels": point_labels, "masks": masks}
    shapes = {name: tuple(t.shape) for name, t in given.items() if t is not None}
    _check_shapes(batch, shapes)
    per_image = next(iter(shapes.values()))[1] if shapes else 1
    if per_image == 0:
        raise ValueError("the prompts hold no object: leave them out for one unprompted object an image.")
    flat = {
        name: None if t is None else t.to(device=device, dtype=torch.float32).flatten(0, 1)
        for name, t in given.items()
    }
    labels = flat["point_labels"]
    return BatchPrompts(
        batch,
        per_image,
        device,
        flat["boxes"],
        flat["points"],
        None if labels is None else labels.long(),
        flat["masks"],
    )


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
) -> tuple[list[Tensor | None], list[int] | None]:
    """Pad prompts that come as lists of B tensors to the same number of objects and clicks.

    Returns:
        Boxes, points, labels and masks as tensors, and the number of objects of each image; None
        instead of the numbers if no prompt came as a list.

    Raises:
        ValueError: the lists disagree about the number of images or objects.
    """
    given = [p for p in (boxes, points, point_labels, masks) if p is not None]
    counts: list[int] | None = None
    if any(not isinstance(p, Tensor) for p in given):
        counts = [len(image) for image in given[0]]
        if any([len(image) for image in p] != counts for p in given):
            raise ValueError("the lists of prompts name different numbers of images or objects an image.")
    padded = [_pad(boxes, torch.nan), _pad(points, 0.0), _pad(point_labels, -1.0), _pad(masks, torch.nan)]
    return padded, counts


def _pad(images: Ragged, value: float) -> Tensor | None:
    if images is None or isinstance(images, Tensor):
        return images
    shape = [max(sizes) for sizes in zip(*(image.shape for image in images), strict=True)]
    padded = torch.full([len(images), *shape], value)
    for target, image in zip(padded, images, strict=True):
        target[tuple(slice(size) for size in image.shape)] = image
    return padded
