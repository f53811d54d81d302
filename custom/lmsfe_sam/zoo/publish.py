"""Publish a packaged bundle: commit it in a clone of the model zoo, or upload it to Hugging Face."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.files import named_path
from lmsfe_sam.zoo.checks import LARGEST
from lmsfe_sam.zoo.folder import METADATA_FILE, NAME
from lmsfe_sam.zoo.verify import check_packaged

ZOO = "https://github.com/Project-MONAI/model-zoo"

UPLOADERS = ("huggingface_hub", "httpx", "httpcore", "requests", "hf_xet")
"""Packages whose errors mean that an upload failed; a number follows the names of some."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; with ``--dry_run``, print what would be done and change nothing."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.zoo.publish", description=str(__doc__).split("\n")[0]
    )
    targets = parser.add_subparsers(dest="target", required=True)
    zoo = targets.add_parser(
        "zoo", help="commit the bundle on a new branch of a clone of the zoo; pushes nothing"
    )
    zoo.add_argument(
        "--clone", required=True, type=named_path, help=f"a clone of your fork of {ZOO}, on its dev branch"
    )
    zoo.add_argument("--branch", help="the new branch (default: the bundle's name and version)")
    hub = targets.add_parser("hub", help="upload the bundle with MONAI's push_to_hf_hub")
    hub.add_argument("--repo", required=True, help="OWNER/NAME on Hugging Face")
    hub.add_argument("--public", action="store_true", help="make a new repository public")
    for target in (zoo, hub):
        target.add_argument("folder", type=named_path, help="the folder that lmsfe_sam.package wrote")
        target.add_argument("--dry_run", action="store_true", help="print what would be done, change nothing")
    options = parser.parse_args(arguments)
    if options.target == "zoo":
        print(to_zoo(options.folder, options.clone, options.branch, options.dry_run))
    else:
        print(to_hub(options.folder, options.repo, options.public, options.dry_run))


def to_zoo(folder: Path, clone: Path, branch: str | None = None, dry_run: bool = False) -> str:
    """Commit a packaged bundle on a new branch of a clone of the model zoo.

    Args:
        folder: the one that `lmsfe_sam.package` wrote.
        clone: a clone of the zoo, or of a fork of it, without uncommitted changes.
        branch: the new branch; by default the bundle's name and version.
        dry_run: change nothing.

    Returns:
        What was done, or would be, and the remaining commands, which need a network.

    Raises:
        InputError: the folder or the clone is unsuitable, or a git command fails.
    """
    version = _version(folder)
    large = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > LARGEST]
    if large:
        raise InputError(
            f"'{large[0]}' is above {LARGEST / 1e6:.0f} MB, which the model zoo does not accept: "
            "package without --any_size."
        )
    branch = branch or f"{NAME}-{version}"
    _check_clone(clone, version, branch)
    target = Path("models") / NAME
    verb = "Update" if (clone / target).exists() else "Add"
    steps = [
        ["switch", "--create", branch],
        # The zoo's .gitignore has models/*/models/*: without force the weights would stay out.
        ["add", "--force", "--all", target.as_posix()],
        ["commit", "--signoff", "--message", f"{verb} {NAME} {version}"],
    ]
    if not dry_run:
        _git(clone, *steps[0])
        shutil.rmtree(clone / target, ignore_errors=True)
        shutil.copytree(folder, clone / target)
        for step in steps[1:]:
            _git(clone, *step)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    commands = [" ".join(f'"{word}"' if " " in word else word for word in ("git", *step)) for step in steps]
    return "\n".join(
        [
            "Nothing was changed; this would be done:" if dry_run else "Done:",
            f"  {commands[0]}",
            f"  {folder} -> {clone / target} ({size / 1e6:.1f} MB)",
            *(f"  {command}" for command in commands[1:]),
            "",
            f"Then, in {clone}:",
            f"  python ci/verify_bundle.py --b {NAME}",
            "  ./runtests.sh --autofix    # formats the package's files in the zoo's style; commit that",
            f"  git push --set-upstream origin {branch}",
            f"  and open a pull request from that branch to dev of {ZOO}",
        ]
    )


def _check_clone(clone: Path, version: str, branch: str) -> None:
    information = clone / "models" / "model_info.json"
    if not information.is_file() or not (clone / "ci" / "verify_bundle.py").is_file():
        raise InputError(
            f"'{clone}' is not a clone of the model zoo: run git clone {ZOO} and name it with --clone."
        )
    if _git(clone, "status", "--porcelain"):
        raise InputError(f"the clone '{clone}' has uncommitted changes: commit or stash them first.")
    if f"{NAME}_v{version}" in json.loads(information.read_text(encoding="utf-8")):
        raise InputError(
            f"version {version} of {NAME} is already in the zoo: raise the version in configs/metadata.json "
            "and in the package, and package it again."
        )
    _git(clone, "check-ref-format", "--branch", branch)
    if _git(clone, "branch", "--list", branch):
        raise InputError(f"the clone '{clone}' already has a branch '{branch}': name another with --branch.")


def _git(clone: Path, *arguments: str) -> str:
    try:
        process = subprocess.run(
            ["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise InputError(f"git cannot be run ({error.strerror}): install it.") from error
    if process.returncode:
        reason = " ".join((process.stderr or process.stdout).split())
        raise InputError(f"git {arguments[0]} failed in '{clone}' ({reason}): fix that and try again.")
    return process.stdout


def to_hub(folder: Path, repo: str, public: bool = False, dry_run: bool = False) -> str:
    """Upload a packaged bundle to Hugging Face with MONAI's ``push_to_hf_hub``, tagged with its version.

    The token is that of ``hf auth login`` or of the environment variable HF_TOKEN.

    Args:
        folder: the one that `lmsfe_sam.package` wrote; MONAI adds a header to a copy of its README.md.
        repo: OWNER/NAME.
        public: make a new repository public.
        dry_run: record the calls instead of making them, without a network.

    Returns:
        What was done, or would be.

    Raises:
        InputError: the folder is not a packaged bundle, the name has the wrong form, or the upload fails.
    """
    version = _version(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise InputError(f"repo is '{repo}': give OWNER/NAME with --repo.")
    if not dry_run and find_spec("huggingface_hub") is None:
        raise InputError("huggingface_hub is not installed: run pip install huggingface_hub.")
    from monai.bundle import push_to_hf_hub

    calls: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="lmsfe_sam_publish_") as scratch,
        _no_network(calls) if dry_run else nullcontext(),
    ):
        shutil.copytree(folder, Path(scratch) / NAME)
        try:
            url = push_to_hf_hub(
                repo=repo,
                name=NAME,
                bundle_dir=scratch,
                private=not public,
                version=version,
                tag_as_latest_version=True,
            )
        except Exception as error:
            if not _is_upload_error(error):
                raise
            reason = " ".join(str(error).split())
            raise InputError(
                f"the upload to '{repo}' failed ({reason}): check the name, the network and the token "
                "(hf auth login, or HF_TOKEN)."
            ) from error
    if dry_run:
        return "\n".join(["Nothing was uploaded; these calls would be made:", *calls])
    return f"{url}: version {version} of {NAME}."


def _is_upload_error(error: Exception) -> bool:
    """Whether an error comes from the network or from a package that uploads."""
    return isinstance(error, OSError) or type(error).__module__.startswith(UPLOADERS)


@contextmanager
def _no_network(calls: list[str]) -> Iterator[None]:
    """Replace Hugging Face's client in MONAI with one that records the calls."""
    from monai.bundle import scripts

    class Recorder:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append(f"  create_repo {repo_id}: {'private' if options['private'] else 'public'}")

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            folder = Path(folder_path)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            size = sum(path.stat().st_size for path in files)
            calls.append(f"  upload_folder {repo_id}: {len(files)} files, {size / 1e6:.1f} MB")
            card = (folder / "README.md").read_text(encoding="utf-8").split("---")[1].split("\n")
            calls.append(f"  model card: {'; '.join(line for line in card if line)}")

        def create_tag(self, repo_id: str, tag: str, **_: Any) -> None:
            calls.append(f"  create_tag {repo_id}: {tag}")

    real = scripts.huggingface_hub
    scripts.huggingface_hub = SimpleNamespace(HfApi=Recorder)
    try:
        yield
    finally:
        scripts.huggingface_hub = real


def _version(folder: Path) -> str:
    check_packaged(folder)
    return str(json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))["version"])


if __name__ == "__main__":
    main()
