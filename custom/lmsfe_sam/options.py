"""Every option of training, evaluation and inference: its type, its range and what it does.

An option's default is beside its key at the top of the config; here is what it may be. The models check the
values (`check_options`), and ``python -m lmsfe_sam.options`` prints them as the table of docs/options.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.model.presets import PRESETS
from lmsfe_sam.prompts.categories import CATEGORIES


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name is given twice")
    return names


Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=16)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Frames = Annotated[str, Field(pattern=r"^(all|\d+:\d+)$", examples=["all", "A:B"])]
Output = Literal[
    "mask",
    "overlay",
    "uncertainty",
    "dicom_seg",
    "dicom_seg_fractional",
    "dicom_sr",
    "coco",
    "geojson",
    "svg",
]
ValidationMode = Literal["box", "point", "none"]
ObjectsRule = Literal["union", "parts", "labels"]
if TYPE_CHECKING:
    PresetName = str
    CategoryName = str
else:
    PresetName = Literal[tuple(PRESETS)]
    CategoryName = Literal[tuple(CATEGORIES)]


class Options(BaseModel):
    """Base of the option tables: no conversion of types, no unknown key, no NaN or infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class DataOptions(Options):
    """The images, their division, and how they are loaded."""

    dataset_dir: Text | Annotated[list[Text], Field(min_length=1)] | None = Field(
        description="folder or datalist.json of the data set, or a list of them; null: built-in phantoms"
    )
    layout: Text = Field(description="arrangement of the folder, see docs/data.md; auto recognises it")
    objects: ObjectsRule | list[ObjectsRule] = Field(
        description="an image's objects: the union of its masks, each label of a label map (or file), or "
        "each connected part of these; for several data sets one rule each, if given as a list"
    )
    masks: Literal["as_drawn", "filled", "inverted"] | None = Field(
        description="how mask files are read: filled fills outlines, inverted takes black for the lesion; "
        "null: as drawn, and outlines and inverted masks are refused"
    )
    max_pixels: Positive = Field(
        description="most pixels of an image, or of all slices of a file that is read as a whole"
    )
    normal_images: bool = Field(
        description="use images without a lesion, too (docs/data.md): trained on without a prompt, and in "
        "evaluation counted as false positives"
    )
    split_rule: Text = Field(
        description="group: the data set's own split, else by patient, video or near-duplicates; "
        "paper: the counts of the paper"
    )
    split_seed: NotNegative | None = Field(
        description="seed of the split (of phantoms, of the images); null: seed"
    )
    validation_fraction: Rate = Field(
        description="part of the images for validation, where there is no own split"
    )
    test_fraction: Share = Field(description="part of the images for testing, where there is no own split")
    phantoms: Annotated[int, Field(ge=8)] = Field(description="number of phantoms without a dataset_dir")
    seed: NotNegative = Field(description="seed of everything random")
    device: Text = Field(description="cpu, cuda, cuda:1, ...")
    batch_size: Positive = Field(description="images a batch and process")
    num_workers: NotNegative = Field(description="processes that load images")
    threads: Positive | None = Field(
        description="threads of torch on the CPU; null: its choice, 1 on phantoms"
    )


class TrainingOptions(DataOptions):
    """Options of ``train.json``."""

    repeats: Annotated[list[Positive], Field(min_length=1)] | None = Field(
        description="how often an epoch passes through each data set's training images"
    )
    prompted_only: list[Text] = Field(
        description="names of data sets whose images are never shown without a prompt"
    )
    accumulate: Positive = Field(
        description="batches whose gradients are added up before a step: a batch of batch_size times as many "
        "images in the memory of one"
    )
    preset: PresetName = Field(description="sizes of the network")
    image_size: Side = Field(description="side of the network's square input in pixels, a multiple of 16")
    local_encoder: bool = Field(description="the local encoder of the paper")
    mhpm: bool = Field(description="its multi-axial Hadamard product modules")
    adapters: bool = Field(description='position, feature and channel-spatial adapters ("ViTA" in table 5)')
    balancing_adapter: bool = Field(description="cross-branch balancing adapters")
    position_norm: Literal["layer", "instance"] = Field(description="norm of the position adapter, eq. (9)")
    position_mode: Literal["add", "replace"] = Field(
        description="add the adapted position embedding to the ViT's own, or replace it as eq. (9) prints"
    )
    prompt_form: Literal["none", "box"] | None = Field(
        description="form of a network without prompts: none, or the box as one more channel; null: none"
    )
    backbone: Text | None = Field(
        description="CNN of the local encoder: plain, one of timm, or both (plain+NAME); null: the preset's"
    )
    backbone_weights: Text | None = Field(description="file with start weights of the backbone")
    backbone_rate: Share = Field(description="learning rate of the backbone, as a share of learning_rate")
    frozen: list[Text] = Field(
        description="parts of the network that keep their weights, by name: image_encoder, mask_decoder, ..."
    )
    pretrained: Text | None = Field(
        description="start weights: a file of SAM, MedSAM, SAM-Med2D or this project"
    )
    teachers: Annotated[list[Text], Field(min_length=1)] | None = Field(
        description="weights of networks whose mean soft mask is a part of the target"
    )
    distillation: Share = Field(description="share of the soft mask in the target, times the IoU of the two")
    resume: Text | None = Field(description="folder of a run to resume")
    output_dir: Text = Field(description="folder of the run; resume goes on in its own")
    epochs: Positive | None = Field(
        description="passes through the training images; null: full_epochs (phantoms: demonstration_epochs)"
    )
    demonstration_epochs: Positive = Field(description="epochs on phantoms")
    full_epochs: Positive = Field(description="epochs on a data set")
    learning_rate: Rate = Field(description="peak learning rate")
    weight_decay: Share = Field(description="of matrices and kernels; norms and biases do not decay")
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(description="epochs of linear warm-up")
    ema_decay: Share = Field(description="decay of the moving average of the weights, which is what is saved")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        description="largest norm of the gradient; null: any"
    )
    patience: Positive = Field(description="validations without improvement after which training stops")
    max_minutes: Annotated[float, Field(gt=0)] | None = Field(
        description="budget of machine time (of the processor; on a GPU by the clock) that ends training"
    )
    val_interval: Positive = Field(
        description="epochs from one validation to the next; the last is always validated"
    )
    validation_modes: Annotated[list[ValidationMode], Field(min_length=1), AfterValidator(_unique)] = Field(
        description="prompts of the validation; their mean Dice picks the best weights"
    )
    superpixel_targets: Share = Field(
        description="probability that an image's target is a region of superpixels instead"
    )
    ellipse_targets: Share = Field(
        description="probability that an ellipse drawn into an image is the target instead"
    )
    prompts_per_image: Positive = Field(description="prompts decoded on one encoding of an image")
    prompt_kinds: dict[str, Any] = Field(description="weight of each kind of training prompt")
    correction_steps: NotNegative = Field(description="corrective clicks that the loss is taken of")
    no_grad_corrections: NotNegative = Field(
        description="at most so many more clicks before them, decoded without gradient; the number is random"
    )
    correction_prob: Share = Field(description="probability that a batch gets corrective clicks")
    amp: bool | None = Field(description="bfloat16; null: on GPUs. Slow on CPUs without instructions for it")
    mlflow: bool = Field(description="log to MLflow, too")


class EvaluationOptions(DataOptions):
    """Options of ``evaluate.json``."""

    repeats: Annotated[list[Positive], Field(min_length=1)] | None = Field(description="as in training")
    split: Literal["train", "val", "test", "all"] | None = Field(
        description="part to evaluate; null: the test part, or all images where nobody set one apart"
    )
    checkpoint: Text = Field(description="file of weights")
    prompt_form: Literal["none", "box"] | None = Field(
        description="form of a network that takes no prompts; null: that of the checkpoint"
    )
    multimask: Literal["sam", "first", "best"] | None = Field(
        description="mask of an object: SAM's advice, its first token, or the best of the other three by "
        "predicted IoU; null: the network's own way (best for SAM-Med2D, else sam)"
    )
    preprocessing: Literal["ours", "authors"] | None = Field(
        description="how images reach the network's input: ours, or as its authors do (docs/baselines.md); "
        "null: the authors' for a published file of SAM, EdgeSAM, MedSAM or SAM-Med2D, else ours"
    )
    output_dir: Text = Field(description="folder of the results")
    prompt_modes: Text | list[Any] | tuple[Any, ...] | None = Field(
        description='"all", or some modes of docs/protocol.md'
    )
    metric_size: Literal["native"] | Side = Field(
        description="side in pixels at which masks are compared; native: each image's own size"
    )
    markings: Literal["note", "paint_out"] | None = Field(
        description="note images with markings near the lesion as a subgroup, or paint the markings out"
    )
    curves: bool = Field(description="Dice against box jitter and against the number of clicks")
    compare: Text | Annotated[list[Text], Field(min_length=1)] | None = Field(
        description="metrics.csv of another run, or a list of them, for a paired comparison"
    )
    predictions: Text | None = Field(
        description="folder of masks that another program made, scored beside the controls and the network"
    )
    save_masks: bool = Field(description="write the predicted masks")
    gallery: NotNegative = Field(description="best, median and worst cases a mode in the report")
    bootstrap: Positive = Field(description="samples of the bootstrap")
    amp: bool = Field(description="bfloat16; slow on CPUs without instructions for it")


class InferenceOptions(Options):
    """Options of ``inference.json``."""

    input: Text | None = Field(description="image or folder of images")
    prompts: Text | None = Field(description="prompts file; null: no prompts")
    slice: NotNegative | None = Field(description="slice of a volume; null: an error for more than one")
    max_pixels: Positive = Field(
        description="most pixels of an image, or of all slices of a file that is read as a whole"
    )
    frames: Frames | NotNegative | None = Field(
        description="frames of cines and volumes, from 0, B not among them; see docs/cine.md"
    )
    min_iou: Share = Field(description="predicted IoU below which an object carried to a frame is lost")
    min_overlap: Share = Field(description="overlap (IoU) with the frame before below which it is lost")
    min_contrast: Share = Field(
        description="contrast with its surroundings, as a share of that in the prompted frame, below which "
        "it is lost; 0: any"
    )
    mode: Literal["auto", "resize", "zoom", "window"] = Field(
        description="how images are shown to the network, see docs/windows.md"
    )
    zoom_share: Rate = Field(description="share of the zoomed crop's side that an object takes")
    zoom_below: Share = Field(description="objects below this share of the image's area are zoomed in on")
    window_size: Side | None = Field(description="side of a window in pixels; null: chosen from the prompts")
    window_overlap: Annotated[float, Field(ge=0, le=0.9)] = Field(
        description="overlap of neighbouring windows"
    )
    window_batch: Positive = Field(description="windows encoded at a time")
    cached_embeddings: NotNegative = Field(
        description="batches of windows whose embeddings are cached for the next prompts on them"
    )
    preset: Text | None = Field(description="preset that the checkpoint must have; null: whatever it has")
    prompt_form: Literal["none", "box"] | None = Field(
        description="form of a network that takes no prompts; null: that of the checkpoint"
    )
    checkpoint: Text = Field(description="file of weights")
    output_dir: Text = Field(description="folder of the results")
    outputs: Annotated[list[Output], AfterValidator(_unique)] = Field(
        description="what is written beside objects.csv, see docs/outputs.md"
    )
    output_ext: Literal[".png", ".nii.gz", ".nii", ".nrrd", ".mha", ".dcm"] = Field(
        description="file type of the masks; .dcm: DICOM segmentations of DICOM files, .png of others"
    )
    category: CategoryName = Field(
        description="what objects are whose prompt does not say, for DICOM, COCO and contours"
    )
    deidentify: bool = Field(
        description="blacken pictures outside of the ultrasound region, no identity in DICOM outputs"
    )
    seed: NotNegative | None = Field(
        description="seed of the UIDs of DICOM outputs; null: never the same again"
    )
    device: Text = Field(description="cpu, cuda, cuda:1, ...")
    amp: bool = Field(description="bfloat16; slow on CPUs without instructions for it")


SECTIONS: dict[str, tuple[type[Options], str]] = {
    "Training": (TrainingOptions, "train.json"),
    "Evaluation": (EvaluationOptions, "evaluate.json"),
    "Inference": (InferenceOptions, "inference.json"),
}


def check_options(schema: type[Options], values: Mapping[str, Any]) -> None:
    """Check values against a schema; a key may be absent.

    Raises:
        InputError: the first value of the wrong type or range, with its key and what would be right, or a key
            that the schema does not have.
    """
    try:
        schema.model_validate(dict(values))
    except ValidationError as errors:
        for error in errors.errors():
            key = str(error["loc"][0])
            if error["type"] == "missing":
                continue
            if error["type"] == "extra_forbidden":
                raise InputError(f"{key} is not an option: leave it out.") from None
            raise InputError(
                f"{key} is {short_repr(values[key])}: give {describe(schema, key)} with --{key}."
            ) from None


def describe(schema: type[Options], key: str) -> str:
    """Return in words what values an option takes, such as "a whole number of at least 1 or null"."""
    kind = schema.model_json_schema()["properties"][key]
    kinds = kind.get("anyOf", [kind])
    lists = [one for one in kinds if one.get("type") == "array"]
    single = [one for one in kinds if one.get("type") not in ("array", "null")]
    text = " or ".join(_words(one) for one in single or lists)
    if {"type": "null"} in kinds:
        text += ", or null" if "enum" in kinds[0] else " or null"
    return f"{text}, or a list of them" if single and lists else text


def _words(kind: Mapping[str, Any]) -> str:
    """Put one JSON schema into words."""
    if "const" in kind:
        return str(kind["const"])
    if "enum" in kind:
        return f"one of {', '.join(kind['enum'])}"
    if "pattern" in kind:
        return " or ".join(kind["examples"])
    if kind.get("type") == "array":
        items = kind["items"]
        if "enum" in items:
            return f"a list of some of {', '.join(items['enum'])}"
        words = _words(items).removeprefix("a ").replace("number", "numbers")
        return f"a list of {words.replace('name or path', 'names or paths')}"
    if kind.get("type") == "integer":
        return f"a whole number of at least {kind['minimum']}"
    if kind.get("type") == "number":
        low = f"from {kind['minimum']:g}" if "minimum" in kind else f"above {kind['exclusiveMinimum']:g}"
        return f"a number {low}" + (f" up to {kind['maximum']:g}" if "maximum" in kind else "")
    return {"boolean": "True or False", "object": "names with their values in braces"}.get(
        kind.get("type", ""), "a name or path"
    )


def options_page(configs: Path) -> str:
    """Return docs/options.md, with the defaults of the configs in a folder."""
    lines = [
        "# Options",
        "",
        "Every option of the three configs, a key at its top; `--KEY VALUE` sets it. Printed by "
        "`python -m lmsfe_sam.options`.",
    ]
    for title, (schema, name) in SECTIONS.items():
        config = json.loads((configs / name).read_text(encoding="utf-8"))
        lines += ["", f"## {title}", "", f"`configs/{name}`", ""]
        lines += ["| option | default | values | meaning |", "| --- | --- | --- | --- |"]
        lines += _rows(schema, config)
    return "\n".join(lines) + "\n"


def _rows(schema: type[Options], config: Mapping[str, Any]) -> Iterable[str]:
    for key, field in schema.model_fields.items():
        default = config[key]
        if isinstance(default, str) and default.startswith("$@bundle_root"):
            default = default.split("'")[1].lstrip("/")
        elif isinstance(default, str) and default.startswith("$"):
            default = "cuda where there is a GPU, else cpu"
        elif isinstance(default, str) and default.startswith("@"):
            default = f"that of {default[1:]}"
        elif not isinstance(default, str):
            default = json.dumps(default)
        yield f"| `{key}` | {default} | {describe(schema, key)} | {field.description} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of options."""
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.options", description="Print the table of options."
    )
    here = Path(__file__).resolve()
    found = [root / "configs" for root in (here.parents[1], here.parents[2] / "bundle")]
    default = next((path for path in found if path.is_dir()), Path("configs"))
    parser.add_argument(
        "--configs", type=Path, default=default, help="folder of the configs, for the defaults"
    )
    configs = parser.parse_args(arguments).configs
    for _, name in SECTIONS.values():
        if not (configs / name).is_file():
            parser.error(f"configs '{configs}' has no {name}: give the folder of a bundle's configs.")
    print(options_page(configs), end="")


if __name__ == "__main__":
    main()
