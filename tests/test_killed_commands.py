"""What a killed command left half written is gone after the next start, and other files stay."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lmsfe_sam
from data_folders import make_plain
from lmsfe_sam.data import audit
from lmsfe_sam.data.phantoms import __main__ as phantoms
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write, remove_leftovers_of, temporary_prefix
from lmsfe_sam.selftest import __main__ as selftest
from lmsfe_sam.training import soup
from lmsfe_sam.zoo.folder import Options, write_bundle

PACKAGE = Path(lmsfe_sam.__file__).parent


def leftover(target: Path, is_folder: bool = False) -> Path:
    """Make what a killed command leaves beside its target."""
    path = target.with_name(f"{temporary_prefix(target)}a1b2_3d4{''.join(target.suffixes[-2:])}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_folder:
        (path / "bundle").mkdir(parents=True)
        (path / "bundle" / "LICENSE").touch()
    else:
        path.touch()
    return path


class TestRemoving:
    def test_of_the_targets_alone(self, tmp_path: Path) -> None:
        target = tmp_path / "a.nii.gz"
        gone = [leftover(target), leftover(tmp_path / "b", is_folder=True)]
        kept = [
            leftover(tmp_path / "a2.nii.gz"),
            tmp_path / ".a.nii.gz",
            tmp_path / "a.nii.gz.tmp-a1b2_3d4.gz",
        ]
        kept.append(leftover(tmp_path / "below" / "a.nii.gz"))
        for file in kept:
            file.touch()
        remove_leftovers_of(target, tmp_path / "b", tmp_path / "no folder" / "c")
        assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)

    def test_what_atomic_write_makes(self, tmp_path: Path) -> None:
        long = tmp_path / ("a" * 60 + ".png")
        with atomic_write(long) as temporary:
            temporary.touch()
            remove_leftovers_of(long)
            assert not temporary.exists()
            temporary.touch()

    def test_a_link_is_removed_and_not_what_it_leads_to(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "mine").touch()
        link = leftover(tmp_path / "a")
        link.unlink()
        link.symlink_to(tmp_path / "elsewhere")
        remove_leftovers_of(tmp_path / "a")
        assert not link.is_symlink() and (tmp_path / "elsewhere" / "mine").exists()

    def test_one_that_stays_is_a_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        leftover(tmp_path / "a.png")

        def refused(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "unlink", refused)
        with pytest.raises(InputError, match=r"a1b2_3d4\.png' could not be written"):
            remove_leftovers_of(tmp_path / "a.png")


class TestCommands:
    def test_phantoms(self, tmp_path: Path) -> None:
        phantoms.main(["--output", str(tmp_path / "out"), "--count", "1"])
        image = next((tmp_path / "out" / "images").iterdir())
        left = [leftover(image), leftover(tmp_path / "out" / "masks" / image.name)]
        phantoms.main(["--output", str(tmp_path / "out"), "--count", "1"])
        assert not any(path.exists() for path in left)

    def test_audit(self, tmp_path: Path) -> None:
        data = make_plain(tmp_path / "data", 3)
        wanted = [tmp_path / "audit.html", tmp_path / "datalist.json"]
        left = [leftover(path) for path in wanted]
        audit.main([str(data), "--output", str(wanted[0]), "--datalist", str(wanted[1])])
        assert all(path.exists() for path in wanted) and not any(path.exists() for path in left)

    def test_weights_and_the_self_test(self, tmp_path: Path, bundle_root: Path) -> None:
        shutil.copytree(bundle_root / "models", tmp_path / "models")
        weights = tmp_path / "models" / "model.pt"
        output = tmp_path / "mean.pt"
        wanted = [
            output,
            output.with_suffix(".json"),
            weights.with_suffix(".json"),
            tmp_path / selftest.EXPECTED,
        ]
        left = [leftover(path) for path in wanted]
        soup.main([str(weights), str(weights), "--output", str(output)])
        selftest.update(tmp_path)
        assert not any(path.exists() for path in left)

    def test_package(self, tmp_path: Path) -> None:
        left = leftover(tmp_path / "packaged", is_folder=True)
        write_bundle(Options(tmp_path / "packaged"))
        assert not left.exists() and [path.name for path in tmp_path.iterdir()] == ["packaged"]

    def test_every_command_that_writes_files_removes_what_it_left(self) -> None:
        """A new command is not forgotten: whatever writes at once has to say when it removes leftovers."""
        commands = [path for path in PACKAGE.rglob("*.py") if '__name__ == "__main__"' in path.read_text()]
        writers = [path for path in commands if "atomic_write" in path.read_text()]
        assert len(writers) > 4
        assert not [path.name for path in writers if "remove_leftovers_of(" not in path.read_text()]


INTERRUPTED = "import os, signal\nos.kill(os.getpid(), signal.{name})\n"


class TestSignalsDuringImports:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Callable[[str], dict[str, str]]:
        """An environment in which importing torch brings a signal."""

        def prepared(name: str) -> dict[str, str]:
            (tmp_path / "torch.py").write_text(INTERRUPTED.format(name=name))
            return {"PYTHONPATH": f"{tmp_path}:{PACKAGE.parent}", "PATH": ""}

        return prepared

    @pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
    @pytest.mark.parametrize("module", ["tables", "training.soup", "batch"])
    def test_a_command_ends_with_a_sentence(
        self, path: Callable[[str], dict[str, str]], module: str, name: str, code: int
    ) -> None:
        words = [sys.executable, "-m", f"lmsfe_sam.{module}", "--help"]
        ended = subprocess.run(words, env=path(name), capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (code, f"stopped by {name}.\n")

    def test_programs_that_import_the_package_keep_their_handlers(
        self, path: Callable[[str], dict[str, str]]
    ) -> None:
        words = [sys.executable, "-c", "import lmsfe_sam"]
        ended = subprocess.run(words, env=path("SIGINT"), capture_output=True, text=True, check=False)
        assert ended.returncode == -2 and ended.stderr.endswith("KeyboardInterrupt\n")
