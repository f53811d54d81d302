"""A table of a network's parts, their parameters, and what trains."""

from __future__ import annotations

from torch import nn

ADAPTERS = (
    "position_adapter",
    "feature_adapter",
    "channel_spatial_adapter",
    "balancing_adapter",
    "local_encoder",
    "local_to_neck",
)


def summarise(model: nn.Module) -> str:
    """Count parameters by part: the adapters each by name, everything else by its module."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = counts.setdefault(_part(name), [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() if parameter.requires_grad else 0
    total = [sum(row[i] for row in counts.values()) for i in range(2)]
    width = max(len(part) for part in counts)
    lines = [f"{'part':<{width}}  {'parameters':>12}  {'trained':>12}"]
    lines += [f"{part:<{width}}  {row[0]:>12,}  {row[1]:>12,}" for part, row in counts.items()]
    lines.append(f"{'total':<{width}}  {total[0]:>12,}  {total[1]:>12,}")
    return "\n".join(lines)


def _part(name: str) -> str:
    pieces = name.split(".")
    for adapter in ADAPTERS:
        if adapter in pieces:
            return f"image_encoder: {adapter}"
    return "image_encoder: ViT" if pieces[0] == "image_encoder" else pieces[0]
