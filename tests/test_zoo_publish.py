"""Publishing without a network: a clone of a small zoo, and a stand-in for Hugging Face."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from monai.bundle import scripts

from lmsfe_sam.errors import InputError
from lmsfe_sam.zoo import publish
from lmsfe_sam.zoo.checks import LARGEST
from lmsfe_sam.zoo.folder import NAME
from lmsfe_sam.zoo.publish import to_hub, to_zoo
from text_files import write_texts

BRANCH = f"{NAME}-0.1.0"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    """What matters here of a packaged folder."""
    texts = {
        "configs/metadata.json": json.dumps({"version": "0.1.0"}),
        "lmsfe_sam/__init__.py": "",
        "docs/README.md": "# A model",
        "models/model.pt": "weights",
        "LICENSE": "Apache License\nVersion 2.0",
    }
    return write_texts(tmp_path / "packaged", texts)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A Contributor")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "contributor@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "zoo"
    for name, text in {
        "models/model_info.json": json.dumps({f"{NAME}_v0.0.9": {}}),
        "ci/verify_bundle.py": "",
        ".gitignore": "models/*/models/*\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch", "dev")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_the_zoo_gets_one_commit_on_a_branch_with_the_weights_that_it_ignores(
    packaged: Path, clone: Path
) -> None:
    said = to_zoo(packaged, clone)
    assert git(clone, "branch", "--show-current").strip() == BRANCH
    assert git(clone, "status", "--porcelain") == ""
    changed = git(clone, "diff", "--name-only", "dev", BRANCH).split()
    expected = {path.relative_to(packaged).as_posix() for path in packaged.rglob("*") if path.is_file()}
    assert set(changed) == {f"models/{NAME}/{name}" for name in expected}
    message = git(clone, "log", "-1", "--format=%B")
    assert message.startswith(f"Add {NAME} 0.1.0\n") and "Signed-off-by: A Contributor" in message
    assert git(clone, "rev-list", "--count", "HEAD").strip() == "2"
    assert said.startswith("Done:") and f"git push --set-upstream origin {BRANCH}" in said
    assert f"python ci/verify_bundle.py --b {NAME}" in said


def test_an_older_bundle_in_the_zoo_is_replaced(packaged: Path, clone: Path) -> None:
    to_zoo(packaged, clone)
    (packaged / "configs" / "metadata.json").write_text(json.dumps({"version": "0.2.0"}))
    (packaged / "docs" / "README.md").unlink()
    to_zoo(packaged, clone, branch="newer")
    assert git(clone, "log", "-1", "--format=%s").strip() == f"Update {NAME} 0.2.0"
    assert not (clone / "models" / NAME / "docs" / "README.md").exists()


def test_a_dry_run_leaves_the_clone_as_it_is(packaged: Path, clone: Path) -> None:
    said = to_zoo(packaged, clone, dry_run=True)
    assert said.startswith("Nothing was changed") and f"git switch --create {BRANCH}" in said
    assert "git add --force --all" in said and f'commit --signoff --message "Add {NAME} 0.1.0"' in said
    assert git(clone, "branch", "--format=%(refname:short)").split() == ["dev"]
    assert git(clone, "status", "--porcelain") == "" and not (clone / "models" / NAME).exists()


def test_what_the_zoo_would_not_take_is_refused_before_anything_changes(packaged: Path, clone: Path) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            to_zoo(packaged, clone, **options)
        assert git(clone, "branch", "--show-current").strip() == "dev"

    refused("check-ref-format failed", branch="a b")
    refused("already has a branch 'dev'", branch="dev")
    (clone / "new.txt").write_text("")
    refused("has uncommitted changes")
    (clone / "new.txt").unlink()
    with (packaged / "models" / "model.pt").open("r+b") as file:
        file.truncate(LARGEST + 1)
    refused("package without --any_size")
    (packaged / "models" / "model.pt").write_text("weights")
    (packaged / "configs" / "metadata.json").write_text(json.dumps({"version": "0.0.9"}))
    refused(r"version 0\.0\.9 of \w+ is already in the zoo")
    (clone / "ci" / "verify_bundle.py").unlink()
    refused("is not a clone of the model zoo")
    (packaged / "lmsfe_sam" / "__init__.py").unlink()
    refused("has no lmsfe_sam/__init__.py")


def test_a_folder_that_is_no_repository(packaged: Path, clone: Path) -> None:
    (clone / ".git").rename(clone / "no_git")
    with pytest.raises(InputError, match="git status failed"):
        to_zoo(packaged, clone)


def test_a_dry_run_for_hugging_face_makes_the_calls_of_monai_to_a_stand_in(
    packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = scripts.huggingface_hub
    publish.main(["hub", str(packaged), "--repo", "me/model", "--dry_run"])
    assert scripts.huggingface_hub is before
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Nothing was uploaded; these calls would be made:",
        "  create_repo me/model: private",
        "  upload_folder me/model: 6 files, 0.0 MB",
        "  model card: tags:; - monai; - medical; library_name: monai; license: apache-2.0",
        "  create_tag me/model: 0.1.0",
        "  create_tag me/model: latest_version",
    ]
    assert not (packaged / "README.md").exists(), "the folder that is published was changed"


class Hub:
    """Hugging Face's interface as MONAI uses it."""

    def __init__(self, token: str | None) -> None:
        self.called: dict[str, Any] = {}
        Hub.last = self

    def create_repo(self, **options: Any) -> None:
        self.called["create_repo"] = options

    def upload_folder(self, repo_id: str, folder_path: str) -> str:
        names = {path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*")}
        self.called["upload_folder"] = (repo_id, names)
        return f"https://example.org/{repo_id}"

    def create_tag(self, tag: str, **_: Any) -> None:
        self.called.setdefault("tags", []).append(tag)


def test_an_upload(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "huggingface_hub", SimpleNamespace(HfApi=Hub))
    monkeypatch.setattr(publish, "find_spec", lambda name: name)
    assert (
        to_hub(packaged, "me/model", public=True) == f"https://example.org/me/model: version 0.1.0 of {NAME}."
    )
    called = Hub.last.called
    assert called["create_repo"] == {"repo_id": "me/model", "private": False, "exist_ok": True}
    assert called["upload_folder"][0] == "me/model"
    assert {"README.md", "docs/README.md", "models/model.pt"} <= called["upload_folder"][1]
    assert called["tags"] == ["0.1.0", "latest_version"]


NO_SERVER = type("ConnectError", (Exception,), {"__module__": "httpx2._exceptions"})("refused")


@pytest.mark.parametrize(
    "error", [OSError("no route\nto host"), NO_SERVER, KeyError("our own mistake")], ids=type
)
def test_an_upload_that_fails_is_one_sentence(
    packaged: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def create_repo(self: Hub, **options: Any) -> None:
        raise error

    monkeypatch.setattr(Hub, "create_repo", create_repo)
    monkeypatch.setattr(scripts, "huggingface_hub", SimpleNamespace(HfApi=Hub))
    monkeypatch.setattr(publish, "find_spec", lambda name: name)
    if isinstance(error, KeyError):
        with pytest.raises(KeyError):
            to_hub(packaged, "me/model")
    else:
        with pytest.raises(InputError, match=r"'me/model' failed \((no route to host|refused)\): check"):
            to_hub(packaged, "me/model")


def test_what_cannot_be_uploaded(packaged: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give OWNER/NAME"):
        to_hub(packaged, "model")
    with pytest.raises(InputError, match=r"has no configs/metadata\.json"):
        to_hub(tmp_path / "nowhere", "me/model", dry_run=True)
    monkeypatch.setattr(publish, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        to_hub(packaged, "me/model")
