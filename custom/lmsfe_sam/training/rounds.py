"""SAM-Med2D's own training loop: a step of the optimizer in each round of prompts on an image.

After https://github.com/OpenGVLab/SAM-Med2D, ``train.py``; `docs/reading-the-paper.md` compares it with ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn import functional

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.mask_decoder import DecodedTokens, choose_masks
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.rounds import error_clicks
from lmsfe_sam.prompts.sampling import PromptSampler
from lmsfe_sam.training.distillation import Teachers
from lmsfe_sam.training.iteration import (
    PromptedIteration,
    explained_norm,
    in_single_precision,
    step_generators,
    to_device,
)
from lmsfe_sam.training.losses import upsample


class RoundsIteration(PromptedIteration):
    """One batch: ``1 + rounds`` steps of the optimizer, all on one encoding of the images.

    The first round trains everything from the sampler's prompts. Each later one is decoded on the detached
    embedding, with the prompt encoder as it is; its prompts replace the earlier ones: the mask before,
    after a sigmoid, and random clicks on its errors. Two rounds, one drawn at random and the last, have the
    mask alone. What is trained is the best of the three masks by predicted IoU.

    Args:
        sampler, seed, clip_norm, channels_last: of `PromptedIteration`.
        rounds: after the first one.
        click_counts: numbers of clicks that a round draws from.
        teachers: None, as this loop has no place for them.
        normal_images: whether images without a lesion are among the training images; this loop prompts all
            others, so that no prompt would mean that there is nothing.

    Raises:
        InputError: fewer than three rounds, of which two could not be the mask's, teachers, or normal images.
    """

    def __init__(
        self,
        sampler: PromptSampler,
        seed: int = 0,
        clip_norm: float | None = None,
        channels_last: bool = False,
        rounds: int = 8,
        click_counts: Sequence[int] = (1, 3, 5, 9),
        teachers: Teachers | None = None,
        normal_images: bool = False,
    ) -> None:
        super().__init__(sampler, seed, clip_norm, channels_last)
        if rounds < 3:
            raise InputError(f"correction_steps is {rounds}: give 3 or more with configs/paper_prompts.json.")
        if teachers is not None:
            raise InputError("configs/paper_prompts.json trains on the truth alone: leave --teachers out.")
        if normal_images:
            raise InputError(
                "normal_images is True, but configs/paper_prompts.json prompts every other image, and then "
                "no prompt would always mean that there is nothing: leave one of them out."
            )
        self.rounds = rounds
        self.click_counts = list(click_counts)

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch. Returns image, label and the mean loss of all rounds.

        Raises:
            InputError: the loss is not a finite number, or there are several processes.
        """
        if idist.get_world_size() > 1:
            raise InputError("configs/paper_prompts.json trains in one process: leave torchrun out.")
        image, labels = to_device(engine, batch, self.memory_format)
        state = engine.state
        rng, _ = step_generators(self.seed, state.epoch, state.iteration, state.rank)
        prompts, target = self.sampler(labels, rng, batch.get("unprompted"))
        network = engine.network.network
        engine.network.train()
        with (
            explained_norm(image),
            torch.autocast(image.device.type, enabled=engine.amp, **engine.amp_kwargs),
        ):
            embedding = network.encode(image)
        mask_alone = {int(rng.integers(1, self.rounds - 1)), self.rounds - 1}
        loss, before = self._round(engine, network, embedding, prompts, target, batch)
        losses = [loss]
        features, skips = embedding.features.detach(), [skip.detach() for skip in embedding.skips]
        embedding = embedding._replace(features=features, skips=skips)
        for number in range(self.rounds):
            clicks = error_clicks(target, before[0], int(rng.choice(self.click_counts)), rng)
            if number in mask_alone:
                clicks = Prompts()
            with frozen(network.prompt_encoder):
                prompts = replace(clicks, masks=before[1])
                loss, before = self._round(engine, network, embedding, prompts, target, batch)
            losses.append(loss)
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        state.output = {Keys.IMAGE: image, Keys.LABEL: labels, Keys.LOSS: sum(losses) / len(losses)}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return state.output

    def _round(
        self,
        engine: Any,
        network: Any,
        embedding: Any,
        prompts: Prompts,
        target: Tensor,
        batch: dict[str, Any],
    ) -> tuple[float, tuple[Tensor, Tensor]]:
        """Predict, and step once. Returns the loss; logits at the target's size, and the next mask prompt."""
        engine.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(target.device.type, enabled=engine.amp, **engine.amp_kwargs):
            tokens = network.decode_tokens(embedding, **vars(prompts))
        masks, iou = choose_masks(in_single_precision(tokens), None, "best")
        nobody = torch.zeros_like(tokens.lone_click)
        loss = engine.loss_function(DecodedTokens(masks[:, :, None], iou[:, :, None], nobody), target)
        self._stop_if_not_finite(loss, engine.state, batch)
        (engine.scaler.scale(loss) if engine.scaler else loss).backward()
        self._step(engine)
        low_res = functional.adaptive_avg_pool2d(masks.detach(), network.low_res_size)
        return loss.item(), (upsample(masks.detach(), target.shape[-1]), low_res.sigmoid())


def choosing_best(network: Any, device: str | torch.device) -> nn.Module:
    """Return a network on its device that gives the best of its three masks, as this loop trains it.

    Raises:
        InputError: it has one mask only.
    """
    if "clicks" not in network.prompt_kinds:
        raise InputError(f"configs/paper_prompts.json trains on clicks, which {network.title} does not take.")
    network.mask_choice = "best"
    moved: nn.Module = network.to(device, memory_format=torch.channels_last)
    return moved


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep a module's parameters from getting a gradient for a while."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
