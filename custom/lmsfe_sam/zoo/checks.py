"""The checks that the model zoo makes of a bundle, and a few that a bundle with its own package needs.

`lmsfe_sam.zoo.verify` runs this file by itself, in a process in which the package can be found in the
bundle alone (`OneCopy`); it may import nothing of the package but through the bundle. What the zoo's
``ci/verify_bundle.py`` checks is checked by the same functions of MONAI with the same arguments.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import importlib
import importlib.metadata
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "lmsfe_sam"
NETWORK = "network_def"

ONLINE = "online"
"""Instead of the name of a schema file: MONAI may download it."""

TOLERANCE = 1e-4

LARGEST = 25_000_000
"""Bytes of the largest file that the model zoo takes."""

METADATA: dict[str, type] = {
    "schema": str,
    "version": str,
    "changelog": dict,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "supported_apps": dict,
    "name": str,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "data_source": str,
    "data_type": str,
    "image_classes": str,
    "label_classes": str,
    "pred_classes": str,
    "eval_metrics": dict,
    "intended_use": str,
    "references": list,
    "network_data_format": dict,
}
TENSOR: dict[str, type] = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
    "is_patch_data": bool,
    "channel_def": dict,
}
"""The types that MONAI's schema wants of each field; it makes some of them optional, here all are there."""

MODULES = {
    "PIL": "pillow",
    "ignite": "pytorch-ignite",
    "segment_anything": "segment-anything",
    "skimage": "scikit-image",
}
"""Modules whose distribution has another name."""

VERSIONED_APART = {"monai", "torch", "numpy"}
"""Packages that have a field of their own in the metadata."""


class Skipped(Exception):
    """A check that this environment cannot make; the message says what it lacks."""


class OneCopy(MetaPathFinder):
    """Finds the package in the bundle, once the bundle is on the module path, and nowhere else."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle.resolve()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the package alone; what is inside it is found through it.

        Raises:
            ModuleNotFoundError: the bundle is not on the module path.
        """
        if fullname != PACKAGE:
            return None
        places = [entry for entry in sys.path if Path(entry or ".").resolve() == self.bundle]
        found = PathFinder.find_spec(fullname, places)
        if found is None:
            raise ModuleNotFoundError(
                f"{PACKAGE} is not in the bundle, or that not on the path", name=PACKAGE
            )
        return found


def main(folder: str, schema: str, report: str) -> None:
    """Check the bundle in ``folder`` and write ``report``, a JSON list of results.

    Args:
        folder: the bundle; exports and the schema are written into it, as the zoo does.
        schema: the file of MONAI's metadata schema, `ONLINE`, or an empty string.
        report: the file to write: name, "passed", "failed" or "skipped", detail.
    """
    bundle = Path(folder)
    sys.meta_path.insert(0, OneCopy(bundle))
    sys.path.insert(0, str(bundle))
    results = []
    for check in CHECKS:
        start = time.perf_counter()
        try:
            state, detail = "passed", check(bundle, schema)
        except Skipped as reason:
            state, detail = "skipped", str(reason)
        except (Exception, SystemExit) as error:
            state, detail = "failed", f"{type(error).__name__}: {error}"
        name = check.__name__.replace("_", " ")
        print(f"{name}: {state}, {time.perf_counter() - start:.1f} s", flush=True)
        results.append((name, state, " ".join(detail.split())))
    Path(report).write_text(json.dumps(results))


def run_commands(folder: str, commands: str) -> None:
    """Be ``python -m monai.bundle`` in a process that finds the package in ``folder`` alone.

    Args:
        folder: the bundle. It is not on the module path: MONAI has to put it there.
        commands: a JSON list of lists of arguments, which are run one after the other.
    """
    sys.meta_path.insert(0, OneCopy(Path(folder)))
    for arguments in json.loads(commands):
        sys.argv[1:] = arguments
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def required_files(bundle: Path, schema: str) -> str:
    """What the zoo asks for, and the documents that its guide names."""
    names = (
        "LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md",
        "docs/data_license.txt",
    )  # fmt: skip
    missing = [name for name in names if not (bundle / name).is_file()]
    urls = [
        f"{entry['path']} from {entry['url']}" for entry in _large_files(bundle) if entry["path"] in missing
    ]
    assert not missing, f"missing: {missing}" + (f"; download {', '.join(urls)}" if urls else "")
    return ", ".join(names)


def file_sizes(bundle: Path, schema: str) -> str:
    """No file is above 25 MB but those that are listed as downloads, and those are above it."""
    listed = _large_files(bundle)
    for entry in listed:
        file = bundle / entry["path"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["hash_val"], f"{file} is another file"
    sizes = {path.relative_to(bundle).as_posix(): path.stat().st_size for path in _files(bundle)}
    large = {name for name, size in sizes.items() if size > LARGEST}
    downloads = {entry["path"] for entry in listed}
    assert large == downloads, f"larger than 25 MB: {sorted(large)}; to be downloaded: {sorted(downloads)}"
    note = f"large_files.yml lists {', '.join(sorted(large))}" if large else "no large_files.yml"
    return f"{len(sizes)} files, the largest {max(sizes.values()) / 1e6:.1f} MB; {note}"


def nothing_else(bundle: Path, schema: str) -> str:
    """No caches, results or hidden files."""
    expected = {"LICENSE", "configs", "docs", "models", PACKAGE}
    stray = {path.name for path in bundle.iterdir()} - expected - {"large_files.yml"}
    stray |= {path.name for path in (bundle / "models").iterdir()} - {"model.pt", "model.json"}
    stray |= {path.name for path in _files(bundle) if path.name.startswith(".") or path.suffix == ".pyc"}
    assert not stray, f"stray: {sorted(stray)}"
    return ", ".join(sorted(expected))


def version_and_changelog(bundle: Path, schema: str) -> str:
    """The version stands in the changelog, and is that of the package inside."""
    metadata = _metadata(bundle)
    assert metadata["version"] in metadata["changelog"], "the version is not in the changelog"
    own = ast.literal_eval((bundle / "lmsfe_sam" / "version.py").read_text().rpartition("=")[2].strip())
    assert metadata["version"] == own, f"the package inside is of version {own}"
    return f"{metadata['version']}: {metadata['changelog'][metadata['version']]}"


def metadata_fields(bundle: Path, schema: str) -> str:
    """Every field is there, has its type, and is not empty where it should say something."""
    metadata = _metadata(bundle)
    _check_types(metadata, METADATA)
    empty = [key for key in METADATA if metadata[key] in ("", []) and key != "references"]
    assert not empty, f"empty: {empty}"
    assert "optional_packages_version" not in metadata, "it would replace the required packages"
    data = metadata["network_data_format"]
    assert next(iter(data["inputs"])) == "image" and next(iter(data["outputs"])) == "pred"
    for tensor in (*data["inputs"].values(), *data["outputs"].values()):
        _check_types(tensor, TENSOR)
        assert all(key.isdigit() for key in tensor["channel_def"]), "channel_def has keys that are no numbers"
        assert len(tensor["channel_def"]) == tensor["num_channels"]
    return f"{len(METADATA)} fields, {len(TENSOR)} of each tensor"


def metadata_schema(bundle: Path, schema: str) -> str:
    """MONAI's ``verify_metadata``, with the schema's file in the place that it would be downloaded to."""
    from monai.bundle import verify_metadata

    if find_spec("jsonschema") is None:
        raise Skipped("jsonschema is not installed")
    if not schema:
        raise Skipped("give the schema's file with --schema, or let MONAI download it with --online")
    place = bundle / "eval" / "schema.json"
    place.parent.mkdir(exist_ok=True)
    if schema != ONLINE:
        place.write_bytes(Path(schema).read_bytes())
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(place))
    return "verify_metadata"


def packages(bundle: Path, schema: str) -> str:
    """The metadata lists every package that the code imports, in a version that can be had."""
    metadata = _metadata(bundle)
    listed = metadata["required_packages_version"]
    needed = {
        MODULES.get(name, name)
        for name in required_modules((bundle / "lmsfe_sam").rglob("*.py")) - VERSIONED_APART
    }
    assert needed <= set(listed), f"not listed: {sorted(needed - set(listed))}"
    versions = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **listed,
    }
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in versions}
    others = [f"{name} {installed[name]}" for name in versions if installed[name] != versions[name]]
    note = f"; tried here with {', '.join(others)}" if others else ", the versions tried here"
    return f"{len(versions)} packages{note}"


def package_inside(bundle: Path, schema: str) -> str:
    """Every module of the bundle's own package can be imported, from the bundle."""
    place = (bundle / PACKAGE).resolve()
    files = sorted(place.rglob("*.py"))
    for file in files:
        name = ".".join((PACKAGE, *file.relative_to(place).with_suffix("").parts)).removesuffix(".__init__")
        module = importlib.import_module(name)
        assert Path(str(module.__file__)).resolve() == file, f"{name} comes from {module.__file__}"
    return f"{len(files)} modules are imported from the bundle"


def properties_of_apps(bundle: Path, schema: str) -> str:
    """The zoo checks the properties of each app that the metadata names."""
    apps = _metadata(bundle)["supported_apps"]
    assert not apps, f"no properties are known of {sorted(apps)}"
    return "supported_apps names none"


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


def properties_of_training(bundle: Path, schema: str) -> str:
    """``check_properties`` of the training workflow."""
    return _properties(bundle, "train", ["train.json"], phantoms=8, output_dir=str(bundle.parent / "made"))


def properties_of_evaluation(bundle: Path, schema: str) -> str:
    """``check_properties`` of the evaluation workflow."""
    return _properties(bundle, "evaluation", ["train.json", "evaluate.json"], phantoms=8)


def properties_of_inference(bundle: Path, schema: str) -> str:
    """``check_properties`` of the inference workflow."""
    return _properties(bundle, "inference", ["inference.json"])


def commands_from_elsewhere(bundle: Path, schema: str) -> str:
    """The command lines work in a fresh process, from a folder outside the bundle: a phantom is segmented.

    One epoch of training and an evaluation on phantoms come after it.
    """
    import numpy as np
    from PIL import Image

    from lmsfe_sam.data.phantoms import render_phantom  # the bundle's own

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
    required_files,
    nothing_else,
    file_sizes,
    version_and_changelog,
    metadata_fields,
    metadata_schema,
    packages,
    package_inside,
    properties_of_apps,
    properties_of_inference,
    data_shape,
    torchscript_export,
    onnx_export,
    loading,
    properties_of_training,
    properties_of_evaluation,
    commands_from_elsewhere,
)


def _files(bundle: Path) -> list[Path]:
    return [path for path in bundle.rglob("*") if path.is_file()]


def _large_files(bundle: Path) -> list[dict[str, str]]:
    if not (bundle / "large_files.yml").is_file():
        return []
    import yaml

    listed: list[dict[str, str]] = yaml.safe_load((bundle / "large_files.yml").read_text())["large_files"]
    return listed


def _network_arguments(bundle: Path) -> dict[str, Any]:
    """What MONAI's checks and exports are told of the network, as the zoo tells it."""
    return {
        "net_id": NETWORK,
        "meta_file": str(bundle / "configs/metadata.json"),
        "config_file": str(bundle / "configs/inference.json"),
        "bundle_root": str(bundle),
    }


def _metadata(bundle: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((bundle / "configs/metadata.json").read_text())
    return metadata


def _check_types(values: Mapping[str, Any], types: Mapping[str, type]) -> None:
    wrong = [key for key, kind in types.items() if not isinstance(values.get(key), kind)]
    assert not wrong, f"missing or of the wrong type: {wrong}"


def required_modules(files: Iterable[Path]) -> set[str]:
    """Return the top-level modules that files of the package import, but for Python's own and itself."""
    names = {name for path in files if path.suffix == ".py" for name in _imports(path)}
    return names - set(sys.stdlib_module_names) - {"lmsfe_sam"}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


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
