"""The examples for SLURM and Kubernetes: their syntax, and their keys against Kubernetes' own schemas.

KubeRay's are in no package: the few keys that the example uses are written down here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema")
kubernetes = pytest.importorskip("kubernetes_validate")

KUBERNETES = "1.31"

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

SBATCH = {
    *("job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "mem", "time", "requeue"),
    *("signal", "output"),
}
"""Long options of sbatch (SLURM 23.11, sbatch(1)) that the examples use."""


def strict(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with no other keys than these; ``required`` names some of them."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, WHOLE, FLAG = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
POD = {"type": "object"}  # by Kubernetes' own schema
PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
WORKERS = strict(
    "groupName template rayStartParams",
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    rayStartParams=PARAMETERS,
    template=POD,
)
RAY_JOB = strict(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    backoffLimit=WHOLE,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
    rayClusterSpec=strict(
        "headGroupSpec",
        rayVersion=TEXT,
        headGroupSpec=strict("template rayStartParams", rayStartParams=PARAMETERS, template=POD),
        workerGroupSpecs={"type": "array", "items": WORKERS},
    ),
)  # ray.io/v1 RayJobSpec of KubeRay 1.3


def load(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


def test_the_job_is_one_of_kubernetes() -> None:
    content = load("kubernetes_job.yaml")
    kubernetes.validate(content, KUBERNETES, strict=True)
    content["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(content, KUBERNETES, strict=True)


def test_the_ray_job_has_the_keys_of_kuberay_and_pods_of_kubernetes() -> None:
    content = load("kuberay_job.yaml")
    schema = strict(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": "RayJob"},
        metadata=strict("name", name=NAME),
        spec=RAY_JOB,
    )
    jsonschema.validate(content, schema)
    cluster = content["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes.validate(pod, KUBERNETES, strict=True)
        group["template"]["spec"]["containers"][0]["resources"]["limit"] = {}
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(pod, KUBERNETES, strict=True)
    content["spec"]["entrypont"] = ""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def words(text: str) -> list[str]:
    return re.findall(r"(?<= )--([a-z_]+)", " " + text)


def test_the_commands_have_options_that_there_are() -> None:
    pytest.importorskip("pyarrow")
    from dataclasses import fields

    from lmsfe_sam.batch.job import BatchOptions

    known = {field.name for field in fields(BatchOptions)}
    job, ray = load("kubernetes_job.yaml"), load("kuberay_job.yaml")
    arguments = " ".join(job["spec"]["template"]["spec"]["containers"][0]["args"])
    script = (EXAMPLES / "slurm_batch.sh").read_text()
    called = script[script.index("python -m lmsfe_sam.batch") :].split("&")[0]
    for text in (arguments, ray["spec"]["entrypoint"], called):
        assert {"input", "output"} <= {*words(text)} <= known
    version = ray["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray[data]=={version}" in (EXAMPLES.parent / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["slurm_batch.sh", "slurm_train.sh"])
def test_scripts_are_whole_and_their_options_sbatchs(name: str) -> None:
    path = EXAMPLES / name
    given = re.findall(r"^#SBATCH --([a-z-]+)", path.read_text(), re.MULTILINE)
    assert given and {*given} <= SBATCH and len(given) == len({*given})
    assert path.read_text().count("#SBATCH") == len(given)
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
