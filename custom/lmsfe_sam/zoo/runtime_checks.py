"""Checks of a packaged bundle that run it: imports, exports, loading, properties, command lines.

`lmsfe_sam.zoo.verify` runs this file as a script, in a process where ``import lmsfe_sam`` finds the bundle's
package. The package is therefore imported within functions, after the module path is set. The checks include
those of the zoo's ``ci/verify_bundle.py``, by the same functions of MONAI with the same arguments.
"""

from __future__ import annotations

import csv
import importlib
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "lmsfe_sam"
NETWORK = "network_def"

TOLERANCE = 1e-4
"""Largest difference of logits between the network and its TorchScript export; ten times that for ONNX."""


def main(folder: str, report: str) -> None:
    """Check the bundle in ``folder`` and write ``report``, a JSON list of results.

    Args:
        folder: the bundle. Exports are written into it, as by the zoo.
        report: the file to write: name, "passed", "failed" or "skipped", detail of each check.
    """
    sys.path.insert(0, folder)
    from lmsfe_sam.zoo.checks import run

    Path(report).write_text(json.dumps(run(CHECKS, Path(folder))))


def run_commands(folder: str, commands: str) -> None:
    """Act as ``python -m monai.bundle``, for each of several commands.

    Args:
        folder: the bundle. It is not on the module path before MONAI puts it there.
        commands: a JSON list of lists of arguments.

    Raises:
        AssertionError: the package was imported from another place than the bundle.
    """
    for arguments in json.loads(commands):
        sys.argv[1:] = arguments
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        _check_origin(Path(folder), sys.modules[PACKAGE])


def package_inside(bundle: Path, schema: str) -> str:
    """Every module of the package can be imported, and comes from the bundle."""
    package = (bundle / PACKAGE).resolve()
    files = sorted(package.rglob("*.py"))
    for file in files:
        name = ".".join((PACKAGE, *file.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
        _check_origin(bundle, importlib.import_module(name))
    return f"{len(files)} modules are imported from the bundle"


def data_shape(bundle: Path, schema: str) -> str:
    """MONAI's ``verify_net_in_out``."""
    from monai.bundle import verify_net_in_out

    verify_net_in_out(**_network_arguments(bundle))
    return "verify_net_in_out"


def torchscript_export(bundle: Path, schema: str) -> str:
    """MONAI's ``ckpt_export``, by ``torch.jit.script``; the file loads and gives the network's logits."""
    import torch
    from monai.bundle import ckpt_export, load

    ckpt_export(
        filepath=str(bundle / "models/verify_model.ts"),
        ckpt_file=str(bundle / "models/model.pt"),
        **_network_arguments(bundle),
    )
    loaded: Any = load(
        bundle.name,
        bundle_dir=bundle.parent,
        model_file="models/verify_model.ts",
        load_ts_module=True,
        device="cpu",
    )
    module, metadata, _ = loaded
    assert metadata["version"] == _metadata(bundle)["version"]
    image = _image(bundle)
    with torch.no_grad():
        apart = float((module(image) - _network(bundle)(image)).abs().max())
    assert apart <= TOLERANCE, f"the logits are {apart:.1e} apart"
    return f"ckpt_export by jit.script; loads; logits {apart:.0e} apart"


def onnx_export(bundle: Path, schema: str) -> str:
    """MONAI's ``onnx_export``; where ONNX Runtime is installed, it gives the network's logits."""
    from lmsfe_sam.zoo.checks import Skipped

    for name in ("onnx", "onnxscript"):
        if find_spec(name) is None:
            raise Skipped(f"{name} is not installed")
    import onnx
    import torch
    from monai.bundle import onnx_export as export

    path = str(bundle / "models/verify_model.onnx")
    export(filepath=path, ckpt_file=str(bundle / "models/model.pt"), **_network_arguments(bundle))
    onnx.checker.check_model(path)
    if find_spec("onnxruntime") is None:
        return "onnx_export; the file passes onnx.checker"
    import onnxruntime

    image = _image(bundle)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    with torch.no_grad():
        apart = float((found - _network(bundle)(image)).abs().max())
    assert apart <= 10 * TOLERANCE, f"the logits are {apart:.1e} apart"
    return f"onnx_export; the file passes onnx.checker; ONNX Runtime: logits {apart:.0e} apart"


def loading(bundle: Path, schema: str) -> str:
    """MONAI's ``load`` from a local folder, with each config that holds the network."""
    import torch
    from monai.bundle import load

    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    for kind in ("train", "inference"):
        network: Any = load(bundle.name, bundle_dir=bundle.parent, workflow_type=kind, device="cpu")
        assert type(network).__module__.startswith("lmsfe_sam."), type(network)
        state = network.state_dict()
        assert state.keys() == weights.keys(), "the tensors have other names"
        assert all(torch.equal(state[name], weights[name]) for name in weights), "the weights are not loaded"
    return f"load by train.json and by inference.json: {len(weights)} tensors, as in model.pt"


def selftest(bundle: Path, schema: str) -> str:
    """`lmsfe_sam.selftest` has the results that are expected of the weights."""
    from lmsfe_sam.selftest.checking import EXPECTED, PHANTOMS, find_problems
    from lmsfe_sam.zoo.checks import Skipped

    if not (bundle / EXPECTED).is_file():
        raise Skipped(f"there is no {EXPECTED} for these weights")
    problems = find_problems(bundle)
    assert not problems, " ".join(problems)
    return f"{len(PHANTOMS)} phantoms are segmented as expected"


def properties_of_training(bundle: Path, schema: str) -> str:
    """``check_properties`` of the training workflow."""
    return _properties(bundle, "train", ["train.json"], phantoms=8, output_dir=str(bundle.parent / "made"))


def properties_of_evaluation(bundle: Path, schema: str) -> str:
    """``check_properties`` of the evaluation workflow."""
    return _properties(bundle, "evaluation", ["train.json", "evaluate.json"], phantoms=8)


def properties_of_inference(bundle: Path, schema: str) -> str:
    """``check_properties`` of the inference workflow."""
    return _properties(bundle, "inference", ["inference.json"])


def commands_from_another_folder(bundle: Path, schema: str) -> str:
    """The command lines work in a fresh process, from a folder outside the bundle: a phantom is segmented.

    One epoch of training and an evaluation on phantoms come after it.
    """
    import numpy as np
    from PIL import Image

    from lmsfe_sam.data.phantoms.rendering import render_phantom  # the bundle's own

    folder = bundle.parent / "elsewhere"
    folder.mkdir()
    picture, lesion = render_phantom(0)
    rows, columns = np.nonzero(lesion)
    box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    Image.fromarray(picture).save(folder / "phantom.png")
    (folder / "prompts.json").write_text(json.dumps({"phantom.png": {"objects": [{"box": box}]}}))
    inference, train, evaluate = [
        str(bundle / f"configs/{name}.json") for name in ("inference", "train", "evaluate")
    ]
    small = {"phantoms": 8, "batch_size": 2, "device": "cpu"}
    commands = [
        _arguments(
            "run", config_file=inference, input="phantom.png", prompts="prompts.json", output_dir="out"
        ),
        _arguments("run training", config_file=train, epochs=1, image_size=64, output_dir="run", **small),
        _arguments(
            "run evaluating",
            config_file=[train, evaluate],
            prompt_modes=["box"],
            bootstrap=10,
            output_dir="scores",
            **small,
        ),
    ]
    process = subprocess.run(
        [sys.executable, "-P", __file__, "commands", str(bundle), json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-300:]
    with (folder / "out" / "objects.csv").open(newline="") as file:
        pixels = int(next(csv.DictReader(file))["area_px"])
    mask = np.asarray(Image.open(folder / "out" / "masks" / "phantom.png")) > 0
    assert mask.shape == lesion.shape and mask.sum() == pixels > 0, f"{mask.shape}, {pixels} pixels"
    missing = [name for name in ("run/model.pt", "scores/summary.json") if not (folder / name).is_file()]
    assert not missing, f"not written: {missing}"
    dice = 2 * float((mask & (lesion > 0)).sum()) / float(mask.sum() + (lesion > 0).sum())
    return f"a phantom of {mask.shape[0]} x {mask.shape[1]} by a box: Dice {dice:.2f}; training; evaluation"


def _arguments(start: str, **options: Any) -> list[str]:
    return [*start.split(), *(word for key, value in options.items() for word in (f"--{key}", str(value)))]


CHECKS: tuple[Callable[[Path, str], str], ...] = (
    package_inside,
    properties_of_inference,
    data_shape,
    torchscript_export,
    onnx_export,
    loading,
    selftest,
    properties_of_training,
    properties_of_evaluation,
    commands_from_another_folder,
)


def _check_origin(bundle: Path, module: ModuleType) -> None:
    """Refuse a module that was not imported from the bundle."""
    package = Path(str(module.__file__)).resolve()
    assert package.is_relative_to(bundle.resolve()), f"{module.__name__} comes from {package}"


def _metadata(bundle: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((bundle / "configs/metadata.json").read_text())
    return metadata


def _network_arguments(bundle: Path) -> dict[str, Any]:
    """What MONAI's checks and exports are told of the network, as the zoo tells it."""
    return {
        "net_id": NETWORK,
        "meta_file": str(bundle / "configs/metadata.json"),
        "config_file": str(bundle / "configs/inference.json"),
        "bundle_root": str(bundle),
    }


def _properties(bundle: Path, kind: str, configs: list[str], **keys: Any) -> str:
    from monai.bundle import create_workflow

    workflow = create_workflow(
        config_file=[str(bundle / "configs" / name) for name in configs],
        workflow_type=kind,
        logging_file=str(bundle / "configs/logging.conf"),
        meta_file=str(bundle / "configs/metadata.json"),
        bundle_root=str(bundle),
        device="cpu",
        **keys,
    )
    wrong = workflow.check_properties()
    assert wrong == [], f"missing or misnamed: {wrong}"
    return f"check_properties of {' + '.join(configs)}"


def _network(bundle: Path) -> Any:
    from lmsfe_sam.model.checkpoints import network_from_checkpoint

    return network_from_checkpoint(bundle / "models/model.pt")


def _image(bundle: Path) -> Any:
    import torch

    image = _metadata(bundle)["network_data_format"]["inputs"]["image"]
    return torch.randn(
        1, image["num_channels"], *image["spatial_shape"], generator=torch.Generator().manual_seed(0)
    )


if __name__ == "__main__":
    if sys.argv[1] == "commands":
        run_commands(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
