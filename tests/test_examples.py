"""The examples for SLURM and Kubernetes: their syntax, and their keys against the schemas that they use."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema")

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
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = strict(
    "name image",
    name=NAME,
    image=TEXT,
    command={"type": "array", "items": TEXT},
    args={"type": "array", "items": TEXT},
    envFrom={"type": "array", "items": strict("secretRef", secretRef=strict("name", name=NAME))},
    resources=strict(requests=QUANTITIES, limits=QUANTITIES),
)
POD = strict(
    "spec",
    spec=strict(
        "containers",
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        restartPolicy={"enum": ["Never", "OnFailure"]},
        terminationGracePeriodSeconds=WHOLE,
        securityContext=strict(runAsNonRoot=FLAG, runAsUser=WHOLE),
    ),
)
JOB = strict(
    "template", backoffLimit=WHOLE, parallelism=WHOLE, completions=WHOLE, template=POD
)  # batch/v1 JobSpec of Kubernetes 1.31
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


@pytest.mark.parametrize(
    ("name", "version", "kind", "spec"),
    [("kubernetes_job.yaml", "batch/v1", "Job", JOB), ("kuberay_job.yaml", "ray.io/v1", "RayJob", RAY_JOB)],
)
def test_manifests_have_the_keys_of_their_schemas(name: str, version: str, kind: str, spec: Any) -> None:
    content = yaml.safe_load((EXAMPLES / name).read_text())
    schema = strict(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=strict("name", name=NAME),
        spec=spec,
    )
    jsonschema.validate(content, schema)
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
    job = yaml.safe_load((EXAMPLES / "kubernetes_job.yaml").read_text())
    ray = yaml.safe_load((EXAMPLES / "kuberay_job.yaml").read_text())
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
