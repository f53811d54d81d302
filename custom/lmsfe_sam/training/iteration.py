"""One step of training and one of validation: the ``iteration_update`` of the two engines.

Prompts are made here, from the augmented masks of the batch, because MONAI's collation cannot carry
ragged prompts. The image is encoded once, whatever the number of prompts and of corrections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.mask_decoder import DecodedTokens, choose_masks
from lmsfe_sam.options import ValidationMode
from lmsfe_sam.predict.decoding import decode_prompts
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.sampling import PromptSampler, correct
from lmsfe_sam.prompts.validation import largest_objects, mode_prompts, mode_targets
from lmsfe_sam.training.distillation import Teachers
from lmsfe_sam.training.losses import upsample

VALIDATION_MODES: tuple[str, ...] = get_args(ValidationMode)
"""Prompts of a validation: the tight box, the click farthest from the border, none."""

NO_RANK = 2**32 - 1
"""Takes the place of a process's rank in the seed of random numbers that all processes share."""


class PromptedSteps(nn.Module):
    """Encode once, decode the prompts, then decode again after each corrective click.

    It has a ``forward`` so that DistributedDataParallel's hooks see all of it as one pass.

    Args:
        network: a `lmsfe_sam.model.promptable.PromptableNetwork`. One that takes no clicks is not
            corrected, and one that takes no prompts is run once.
        correction_steps: decoder steps after the first. Each adds one click to every object, in the
            largest wrong region, and feeds the previous low-resolution logits back, as SAM's and
            SAM-Med2D's training does.
        no_grad_corrections: largest number of further corrections before the first of these. The number is
            drawn for each batch from 0 up. They are decoded without gradient, at a third of the cost, and
            show the network objects with many clicks (as RITM does, Sofiiuk 2022).
        correction_prob: probability that a batch is corrected at all. The others cost half as much and still
            train boxes, first clicks and no prompt.
    """

    def __init__(
        self,
        network: nn.Module,
        correction_steps: int = 1,
        no_grad_corrections: int = 0,
        correction_prob: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.correction_steps = correction_steps
        self.no_grad_corrections = no_grad_corrections
        self.correction_prob = correction_prob

    def train(self, mode: bool = True) -> PromptedSteps:
        """Set the mode; frozen parts stay in evaluation mode, so that their batch norm keeps its averages."""
        super().train(mode)
        if mode:
            for module in self.network.modules():
                parameters = [*module.parameters()]
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    module.eval()
        return self

    def forward(
        self,
        image: Tensor,
        prompts: Prompts,
        target: Tensor,
        rng: np.random.Generator,
        shared_rng: np.random.Generator | None = None,
    ) -> list[DecodedTokens]:
        """Return all mask tokens of each step.

        Args:
            image: (B,3,H,W), normalised.
            prompts: N objects an image.
            target: (B,1,H,W) or (B,N,H,W), not zero inside the object.
            rng: draws the corrective clicks.
            shared_rng: draws how many corrections there are. It is the same in all processes that train
                together, so that none waits for another's longer step. Default ``rng``.
        """
        network: Any = self.network
        shared_rng = shared_rng or rng
        embedding = network.encode(image)
        if network.prompt_kinds == ("none",):
            return [network.decode_tokens(embedding)]
        steps = [network.decode_tokens(embedding, **vars(prompts))]
        if "clicks" not in network.prompt_kinds:
            return steps
        if self.correction_steps == 0 or shared_rng.random() >= self.correction_prob:
            return steps
        prompts = self._corrected(prompts, steps[0], target, rng)
        if self.no_grad_corrections:
            with torch.no_grad():
                for _ in range(shared_rng.integers(self.no_grad_corrections + 1)):
                    tokens = network.decode_tokens(embedding, **vars(prompts))
                    prompts = self._corrected(prompts, tokens, target, rng)
        while True:
            steps.append(network.decode_tokens(embedding, **vars(prompts)))
            if len(steps) > self.correction_steps:
                return steps
            prompts = self._corrected(prompts, steps[-1], target, rng)

    def _corrected(
        self, prompts: Prompts, tokens: DecodedTokens, target: Tensor, rng: np.random.Generator
    ) -> Prompts:
        network: Any = self.network
        choice = getattr(network, "mask_choice", "sam")
        masks = choose_masks(tokens, None, choice)[0].detach().float()
        low_res = functional.adaptive_avg_pool2d(masks, network.low_res_size)
        return correct(prompts, target, upsample(masks, target.shape[-1]), low_res, rng)


class PromptedIteration:
    """One training step: the trainer's ``iteration_update``.

    Args:
        sampler: makes the prompts from the batch's masks.
        seed: the run's seed; the prompts of a batch depend on it, the epoch and the batch's number.
        clip_norm: largest norm of all gradients together; longer ones are scaled down to it. None to
            leave them as they are.
        channels_last: memory format of the images.
        accumulate: number of parts that a batch goes through the network in, one after the other. Their
            gradients add up to those of the batch, with the memory of a part. Batch norm sees the parts.
        teachers: networks whose soft masks are a part of the target of the first decoder step. Those after it
            keep to the truth, from which their clicks are made.
    """

    def __init__(
        self,
        sampler: PromptSampler,
        seed: int = 0,
        clip_norm: float | None = 1.0,
        channels_last: bool = False,
        accumulate: int = 1,
        teachers: Teachers | None = None,
    ) -> None:
        self.accumulate = accumulate
        self.sampler = sampler
        self.seed = seed
        self.clip_norm = clip_norm
        self.teachers = teachers
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Draw prompts, predict, update the weights. Returns image, label and the loss.

        Raises:
            InputError: the loss is not a finite number; the message names the batch's files. Or a layer
                normalises a single value.
        """
        image, labels = to_device(engine, batch, self.memory_format)
        state = engine.state
        rng, shared_rng = step_generators(self.seed, state.epoch, state.iteration, state.rank)
        prompts, target = self.sampler(labels, rng, batch.get("unprompted"))

        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        parts = torch.arange(len(image), device=image.device).chunk(self.accumulate)
        for part in parts:
            local = nullcontext() if part is parts[-1] else local_gradients(engine.network)
            with local, explained_norm(image[part]):
                some = prompts.map(partial(torch.index_select, dim=0, index=part))
                loss = self._loss(engine, image[part], labels[part], some, target[part], (rng, shared_rng))
                loss = loss * (len(part) / len(image))
                self._stop_if_not_finite(loss, state, batch)
                (engine.scaler.scale(loss) if engine.scaler else loss).backward()
            total += loss.item()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        self._step(engine)
        state.output = {Keys.IMAGE: image, Keys.LABEL: labels, Keys.LOSS: total}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return state.output

    def _loss(
        self,
        engine: Any,
        image: Tensor,
        labels: Tensor,
        prompts: Prompts,
        target: Tensor,
        generators: tuple[np.random.Generator, np.random.Generator],
    ) -> Tensor:
        soft: tuple[Tensor, ...] = ()
        with torch.autocast(image.device.type, enabled=engine.amp, **engine.amp_kwargs):
            if self.teachers is not None:
                soft = (self.teachers.predict(image, prompts, generators[0]),)
            steps = engine.inferer(image, engine.network, prompts, target, *generators)
        if steps[0].masks.shape[1] < target.shape[1]:  # a network without prompts: one mask of all objects
            target = (labels > 0).float()
        # Outside of autocast: Dice sums 65,536 pixels, which half precision does not carry.
        first, *corrected = map(in_single_precision, steps)
        if self.teachers is not None:
            soft = (self.teachers.soften(target, *soft),)
        losses = [engine.loss_function(first, target, *soft)]
        losses += [engine.loss_function(tokens, target) for tokens in corrected]
        return torch.stack(losses).mean()

    def _step(self, engine: Any) -> None:
        scaler, optimizer = engine.scaler, engine.optimizer
        if scaler:
            scaler.unscale_(optimizer)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(engine.network.parameters(), self.clip_norm)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    @staticmethod
    def _stop_if_not_finite(loss: Tensor, state: Any, batch: dict[str, Any]) -> None:
        if torch.isfinite(loss):
            return
        raise InputError(
            f"The loss became {loss.item()} in epoch {state.epoch}, iteration {state.iteration}, with "
            f"{', '.join(names_of(batch))}: look at these files, or lower --learning_rate."
        )


@contextmanager
def explained_norm(image: Tensor) -> Iterator[None]:
    """Say in a sentence that a layer has a single value of each channel to normalise, which torch refuses.

    Args:
        image: (B,3,H,W), what the network gets.

    Raises:
        InputError: in place of torch's error.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1"):
            raise
        raise InputError(
            f"the network cannot train on a batch of {len(image)} of {image.shape[-1]} x {image.shape[-2]} "
            "pixels, of which a layer has a single value to normalise: give another --batch_size, one that "
            "leaves no single image over, or a larger --image_size."
        ) from error


class ValidationIteration:
    """One validation step: the evaluator's ``iteration_update``.

    Each image is encoded once and decoded with all modes at once, as that many objects. A box or click means
    the image's largest object, no prompt all of them; images that must be prompted are left out of ``none``.

    Args:
        modes: some of `VALIDATION_MODES`.
        channels_last: memory format of the images.

    Raises:
        InputError: no mode, or an unknown one.
    """

    def __init__(self, modes: Sequence[str] = VALIDATION_MODES, channels_last: bool = False) -> None:
        unknown = [mode for mode in modes if mode not in VALIDATION_MODES]
        if unknown or not modes:
            raise InputError(
                f"validation_modes has {', '.join(unknown) or 'nothing'}: "
                f"give some of {', '.join(VALIDATION_MODES)}."
            )
        self.modes = tuple(modes)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Return ``image``, and ``label`` and binary ``pred``, both (B,M,H,W) with a channel for each mode.

        There are a ``pred_MODE`` and a ``label_MODE`` (B,1,H,W) for each mode, too. Both are empty, which
        metrics leave out, for ``none`` where the batch's ``unprompted`` is False.
        """
        image, labels = to_device(engine, batch, self.memory_format)
        largest = largest_objects(labels)
        target = mode_targets(labels, largest, self.modes, batch.get("unprompted"))
        prompts = mode_prompts(largest, self.modes)
        with (
            engine.mode(engine.network),
            torch.autocast(image.device.type, enabled=engine.amp, **engine.amp_kwargs),
        ):
            embedding = engine.network.encode(image)
            logits, _ = decode_prompts(engine.network, embedding, prompts)
        masks = (logits > 0).float() * target.any(dim=(2, 3), keepdim=True)
        engine.state.output = {
            Keys.IMAGE: image,
            Keys.LABEL: target,
            Keys.PRED: masks,
            **{f"pred_{mode}": masks[:, i : i + 1] for i, mode in enumerate(self.modes)},
            **{f"label_{mode}": target[:, i : i + 1] for i, mode in enumerate(self.modes)},
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


def local_gradients(network: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which gradients are added up in this process and not shared with the others yet."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def step_generators(
    seed: int, epoch: int, iteration: int, rank: int
) -> tuple[np.random.Generator, np.random.Generator]:
    """Return a step's two random generators: this process's own, and one that all processes share."""
    # numpy fills short seeds up with zeros: without a word of its own, the shared one would be rank 0's.
    own, shared = ([seed, epoch, iteration, word] for word in (rank, NO_RANK))
    return np.random.default_rng(own), np.random.default_rng(shared)


def in_single_precision(tokens: DecodedTokens) -> DecodedTokens:
    """Return the same tokens, masks and predicted IoU as float32."""
    return tokens._replace(masks=tokens.masks.float(), iou=tokens.iou.float())


def usable_modes(network: Any, modes: Sequence[str], records: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Return those validation modes that a network can be used in; all that it can, where these are none.

    Args:
        network: that is trained.
        modes: some of `VALIDATION_MODES`.
        records: the validation images; ``none`` is left out where each of them has to be prompted.
    """
    kinds = {"box": "box", "point": "clicks", "none": "none"}
    usable = [mode for mode in VALIDATION_MODES if kinds[mode] in network.prompt_kinds]
    if records and not any(record.get("unprompted", True) for record in records) and len(usable) > 1:
        usable.remove("none")
    return [mode for mode in modes if mode in usable] or usable


def usable_kinds(network: Any, kinds: Mapping[str, float], normal_images: bool = False) -> dict[str, float]:
    """Return those kinds of training prompts, with their weights, that a network takes.

    Args:
        network: that is trained.
        kinds: names and weights.
        normal_images: whether images without a lesion are among the training images, which are shown
            without a prompt.

    Raises:
        InputError: it needs a box, and no kind is one; or with normal images, others would not be shown
            without a prompt, which would then always mean that there is nothing.
    """
    if normal_images and "none" not in network.prompt_kinds:
        raise InputError(
            f"normal_images is True, but {network.title} needs a prompt, and a normal image has nothing to "
            "prompt: leave it out."
        )
    if normal_images and not kinds.get("none") and network.prompt_kinds != ("none",):
        raise InputError(
            "normal_images is True, but prompt_kinds gives none no weight: no prompt would always mean that "
            "there is no lesion, so give none a weight."
        )
    if network.prompt_kinds == ("none",):
        return {"none": 1.0}
    if "clicks" in network.prompt_kinds:
        return dict(kinds)
    boxes = {kind: weight for kind, weight in kinds.items() if kind in ("box", "box_jitter") and weight}
    if not boxes:
        raise InputError(
            f"prompt_kinds is {dict(kinds)}, but {network.title} takes boxes alone: "
            "give box or box_jitter a weight."
        )
    return boxes


def to_device(
    engine: Any, batch: dict[str, Any], memory_format: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Return image (B,3,H,W) and label (B,1,H,W), both float, on the engine's device."""
    image, target = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    return image.float().contiguous(memory_format=memory_format), target.float()


def names_of(batch: dict[str, Any]) -> list[str]:
    """Return the names of a batch's images."""
    return [str(name) for name in batch.get("name", ["a batch without names"])]
