"""What there is to segment, with which prompts, and what its results are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_folders import save, speckle
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import stem
from lmsfe_sam.inference.inputs import check_settings, find_inputs, unique_stems
from lmsfe_sam.prompts.prompt import ObjectPrompt
from medical_files import save_dicom

SUFFIXES = st.sampled_from([".png", ".jpg", ".nii.gz", ""])
BOX = {"objects": [{"box": [1, 2, 3, 4]}]}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"?")


def prompts_file(folder: Path, *names: str) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps(dict.fromkeys(names, BOX)))
    return path


class TestFindInputs:
    def test_a_folder_gives_its_images_by_name(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.PNG", "a.nii.gz", "c.dcm", "notes.txt", ".hidden.png", "d.nrrd", "e.jpeg", "f.gz")
        save_dicom(tmp_path / "IM1", np.zeros((4, 4), np.uint8))
        (tmp_path / "sub.png").mkdir()
        names = [record["name"] for record in find_inputs(tmp_path)]
        assert names == ["IM1", "a.nii.gz", "b.PNG", "c.dcm", "d.nrrd", "e.jpeg"]

    def test_a_record(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.nii.gz", "b.png")
        first, second = find_inputs(str(tmp_path), prompts_file(tmp_path, "b.png"))
        assert first == {"image": str(tmp_path / "a.nii.gz"), "name": "a.nii.gz", "stem": "a", "prompts": []}
        assert second["prompts"] == [ObjectPrompt(box=(1, 2, 3, 4))]

    def test_one_file_and_prompts_for_its_neighbours(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "b.png")
        (record,) = find_inputs(tmp_path / "a.png", prompts_file(tmp_path, "a.png", "b.png"))
        assert record["name"] == "a.png"
        with pytest.raises(InputError, match=r"names 'c\.png'.*did you mean '[ab]\.png' or"):
            find_inputs(tmp_path / "a.png", prompts_file(tmp_path, "a.png", "c.png"))

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("none", r"input '.*none' does not exist"),
            ("none.png", r"input '.*none\.png' does not exist"),
            ("notes.txt", "is not an image: give one of .*.png"),
            ("empty", r"input '.*empty' holds no image"),
        ],
    )
    def test_nothing_to_segment(self, tmp_path: Path, source: str, words: str) -> None:
        touch(tmp_path, "notes.txt")
        (tmp_path / "empty" / "sub").mkdir(parents=True)
        touch(tmp_path / "empty", "notes.txt", "p.json")
        with pytest.raises(InputError, match=words):
            find_inputs(tmp_path / source)

    def test_an_unknown_name_in_the_prompts(self, tmp_path: Path) -> None:
        touch(tmp_path, "case_12.png", "other.png")
        with pytest.raises(InputError, match=r"'case_12\.jpg'.*did you mean 'case_12\.png'"):
            find_inputs(tmp_path, prompts_file(tmp_path, "case_12.jpg"))

    def test_bad_prompts_come_before_the_images(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="prompts file"):
            find_inputs(tmp_path / "none", tmp_path / "none.json")

    def test_no_input_is_an_error_only_at_the_start(self) -> None:
        assert find_inputs(None) == []


class TestStems:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("a.png", "a"),
            ("a.b.nii.gz", "a.b"),
            ("A.NII", "A"),
            ("1.2.840.5", "1.2.840.5"),
            ("x.tar.gz", "x.tar.gz"),
        ],
    )
    def test_stem(self, name: str, expected: str) -> None:
        assert stem(Path(name)) == expected

    def test_what_shares_a_stem_keeps_its_whole_name(self) -> None:
        paths = [Path(name) for name in ("a.png", "a.jpg", "A.nii.gz", "b.png")]
        assert list(unique_stems(paths).values()) == ["a.png", "a.jpg", "A.nii.gz", "b"]

    def test_a_whole_name_may_be_taken(self) -> None:
        paths = [Path(name) for name in ("a.jpg", "a.png", "a.png.jpg")]
        assert list(unique_stems(paths).values()) == ["a.jpg", "a.png-2", "a.png"]

    @given(
        st.sets(
            st.tuples(
                st.sampled_from(["a", "A", "a.png", "b"]), st.sampled_from([".png", ".jpg", ".nii.gz", ""])
            )
        )
    )
    def test_no_two_are_the_same(self, parts: set[tuple[str, str]]) -> None:
        paths = sorted({Path(name + suffix) for name, suffix in parts})
        stems = unique_stems(paths)
        assert list(stems) == paths
        assert len({name.casefold() for name in stems.values()}) == len(paths)


SETTINGS = {
    "input": "a.png",
    "prompts": None,
    "slice": None,
    "preset": None,
    "checkpoint": "m.pt",
    "output_dir": "out",
    "output_ext": ".png",
    "amp": False,
}


class TestSettings:
    def test_good_ones_pass(self) -> None:
        check_settings("cpu", **SETTINGS)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("slice", -1),
            ("slice", "two"),
            ("output_ext", "png"),
            ("output_ext", ".gif"),
            ("checkpoint", 3),
            ("amp", 1),
        ],
    )
    def test_bad_ones_are_named(self, key: str, value: object) -> None:
        with pytest.raises(InputError, match=f"{key} is .*--{key}"):
            check_settings("cpu", **{**SETTINGS, key: value})

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match="device is 'gpu'"):
            check_settings("gpu", **SETTINGS)


def test_bytes_of_a_name_that_are_not_utf8_are_written_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"lat\xe9in.png"))
    (record,) = find_inputs(tmp_path)
    assert (record["name"], record["stem"]) == ("lat\\xe9in.png", "lat\\xe9in")
    assert Path(record["image"]).is_file()


@pytest.mark.parametrize("inside", [True, False])
def test_a_key_of_frame_0_is_of_a_file_of_one_frame_too(tmp_path: Path, inside: bool) -> None:
    save(tmp_path / "images" / "a.png", speckle(1))
    source = tmp_path / "images" if inside else tmp_path / "images" / "a.png"
    (record,) = find_inputs(source, prompts_file(tmp_path, "a.png#0"))
    assert record["prompts"] == [ObjectPrompt(box=(1, 2, 3, 4))]
    with pytest.raises(InputError, match=r"names 'a\.png#1', but .* has one frame"):
        find_inputs(source, prompts_file(tmp_path, "a.png#1"))


def test_results_are_named_in_the_file_systems_own_encoding(tmp_path: Path) -> None:
    """With a locale other than UTF-8, results had names that the system could not write."""
    program = "from lmsfe_sam.inference.inputs import find_inputs as f; import os, sys; "
    program += "sys.stdout.buffer.write(os.fsencode(f(sys.argv[1])[0]['stem']))"
    name = "Brüste und 乳房"
    touch(tmp_path, f"{name}.png")
    for python, expected in (("1", name), ("0", ascii(name.encode())[2:-1])):
        environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": python, "PYTHONCOERCECLOCALE": "0"}
        words = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(words, env=environment, capture_output=True, check=True)
        assert done.stdout.decode() == expected
