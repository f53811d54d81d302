"""DICOM segmentations and reports, opened again by highdicom, dcmqi and dciodvfy."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    EnhancedUSVolumeStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from lmsfe_sam.images.scale import Scale
from lmsfe_sam.inference.writers.dicom_seg import make_segmentation
from lmsfe_sam.inference.writers.dicom_sr import make_report
from lmsfe_sam.inference.writers.image_result import ImageResult
from lmsfe_sam.inference.writers.source import Identifiers, read_source
from lmsfe_sam.prompts.categories import CATEGORIES
from medical_files import save_dicom

SIZE = (40, 60)
SPACING = (0.1, 0.2)
AFFINE = np.diag([-0.2, -0.1, 1.0, 1.0])
PERSON = {
    "PatientName": "Doe^Jane",
    "PatientID": "ID-4711",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "StudyDate": "20240203",
    "StudyTime": "101112",
    "StudyID": "S7",
    "AccessionNumber": "ACC9",
    "ReferringPhysicianName": "Who^Doctor",
    "PatientAge": "054Y",
    "StudyDescription": "Thyroid of Jane Doe",
    "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
    "SeriesInstanceUID": generate_uid(entropy_srcs=["series"]),
}


def save(folder: Path, frames: int = 1, **attributes: object) -> Path:
    shape = (frames, *SIZE) if frames > 1 else SIZE
    return save_dicom(folder / "scan.dcm", np.zeros(shape, np.uint8), frames, **attributes)


def result(
    path: Path, frame: int = 0, frames: int = 1, spacing: tuple[float, float] = SPACING
) -> ImageResult:
    """A disc that moves with the frame, and from the third frame on a rectangle."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    labels = ((y - 20) ** 2 + (x - 15 - frame) ** 2 <= 81).astype(np.uint8)
    if frame >= 2 or frames == 1:
        labels[5:20, 35:50] = 2
    scale = Scale(spacing, "region")
    probabilities = np.stack([(labels == 1) * 200, (labels == 2) * 90]).astype(np.uint8)
    return ImageResult(
        path, path.name, path.stem, labels, [{}, {}], ["lesion", "nerve"], AFFINE, scale, frame, frames,
        probabilities,
    )  # fmt: skip


def write(folder: Path, results: list[ImageResult], seed: int | None = 0, deidentify: bool = False) -> Path:
    """Write ``seg.dcm``, ``probabilities.dcm`` and ``sr.dcm``."""
    identifiers = Identifiers.of(seed)
    first = results[0]
    source = read_source(first.path, SIZE, first.frames, identifiers, deidentify)
    seg = make_segmentation(source, results, identifiers, deidentified=deidentify)
    seg.save_as(folder / "seg.dcm", enforce_file_format=True)
    fractional = make_segmentation(source, results, identifiers, fractional=True, deidentified=deidentify)
    fractional.save_as(folder / "probabilities.dcm", enforce_file_format=True)
    report = make_report(source, seg, results, identifiers, deidentified=deidentify)
    report.save_as(folder / "sr.dcm", enforce_file_format=True)
    return folder


def test_one_image_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path, **PERSON)
    given = result(path)
    seg = hd.seg.segread(write(tmp_path, [given]) / "seg.dcm")
    source = pydicom.dcmread(path)
    labels = seg.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
    np.testing.assert_array_equal(labels[0], given.labels)
    for key, value in PERSON.items():
        if key != "SeriesInstanceUID":
            assert getattr(seg, key) == value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    assert (seg.ReferencedSeriesSequence[0].SeriesInstanceUID) == source.SeriesInstanceUID
    assert [s.segmented_property_type.meaning for s in map(seg.get_segment_description, (1, 2))] == [
        "Lesion", "Nerve"
    ]  # fmt: skip
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == list(SPACING)
    probabilities = hd.seg.segread(tmp_path / "probabilities.dcm")
    assert probabilities.MaximumFractionalValue == 255
    np.testing.assert_array_equal(
        probabilities.pixel_array, given.probabilities, err_msg="probabilities are kept to the byte"
    )


def test_frames_come_back_in_their_places(tmp_path: Path) -> None:
    path = save(tmp_path, frames=6, **PERSON)
    given = [result(path, frame, 6) for frame in (4, 1, 2)]
    seg = hd.seg.segread(write(tmp_path, given) / "seg.dcm")
    instance = pydicom.dcmread(path).SOPInstanceUID
    labels = seg.get_pixels_by_source_frame(
        instance, [1, 2, 3, 5], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert not labels[0].any()
    for found, expected in zip(labels[1:], (given[1], given[2], given[0]), strict=True):
        np.testing.assert_array_equal(found, expected.labels)
    classes = {
        item.ReferencedSOPClassUID
        for group in seg.PerFrameFunctionalGroupsSequence
        for item in group.DerivationImageSequence[0].SourceImageSequence
    }
    assert classes == {pydicom.dcmread(path).SOPClassUID}


def test_nothing_found_is_a_segmentation_too(tmp_path: Path) -> None:
    path = save(tmp_path, **PERSON)
    empty = ImageResult(path, path.name, path.stem, np.zeros(SIZE, np.uint8), [{}], ["lesion"])
    identifiers = Identifiers.of(0)
    source = read_source(path, SIZE, 1, identifiers)
    seg = make_segmentation(source, [empty], identifiers)
    assert not seg.pixel_array.any()
    assert seg.ContentDescription == "Pixel spacing unknown, 1 mm written"
    with pytest.raises(ValueError, match="no object"):
        make_report(source, seg, [empty], identifiers)


def test_what_is_missing_or_malformed_is_made_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path)
    dataset = pydicom.dcmread(path)
    del dataset.SOPInstanceUID
    for key, value in {
        "StudyInstanceUID": "1.2.x", "StudyDate": "yesterday", "StudyTime": "9am", "PatientSex": "female",
        "PatientAge": "around fifty years", "AccessionNumber": "a number of more than sixteen characters",
    }.items():  # fmt: skip
        tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(key))
        raw = pydicom.dataelem.RawDataElement(
            tag, pydicom.datadict.dictionary_VR(tag), len(value), value.encode(), 0, False, True
        )
        dataset[tag] = raw
    pydicom.dcmwrite(path, dataset, enforce_file_format=False)
    with caplog.at_level(logging.WARNING):
        write(tmp_path, [result(path)])
    assert "scan.dcm' lacks StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID" in caplog.text
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.PatientSex is None or seg.PatientSex == ""
    assert not seg.StudyDate


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 6", "Doe^Jane"),
        ("ISO_IR 100", "M\u00fcller^J\u00fcrgen"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e"),
        ("ISO_IR 144", "\u041b\u044e\u043a^\u0416"),
        ("ISO_IR 999", "Doe^Jane"),
        ("", "Doe^Jane"),
    ],
)
def test_names_in_any_character_set(tmp_path: Path, character_set: str | list[str], name: str) -> None:
    person = {**PERSON, "PatientName": name, "SpecificCharacterSet": character_set}
    path = save(tmp_path, **person)
    write(tmp_path, [result(path)])
    for written in ("seg.dcm", "probabilities.dcm", "sr.dcm"):
        assert str(pydicom.dcmread(tmp_path / written).PatientName) == name


@pytest.mark.parametrize("sop_class", ["1.3.46.670589.33.1.4.1", "1.2.840.10008.5.1.4.1.1.7"])
def test_a_source_of_a_private_or_another_class(tmp_path: Path, sop_class: str) -> None:
    path = save(tmp_path, **PERSON, SOPClassUID=sop_class)
    write(tmp_path, [result(path)])
    for written in ("seg.dcm", "sr.dcm"):
        text = pydicom.dcmread(tmp_path / written).to_json()
        assert f'"{sop_class}"' in text and f'"{UltrasoundImageStorage}"' not in text


@pytest.mark.parametrize("key", ["PatientName", "PatientID", "AccessionNumber", "PatientAge"])
def test_several_values_where_there_is_one_are_none(tmp_path: Path, key: str) -> None:
    dataset = pydicom.dcmread(save(tmp_path, **PERSON))
    setattr(dataset, key, ["054Y", "055Y"])
    dataset.save_as(tmp_path / "scan.dcm")
    write(tmp_path, [result(tmp_path / "scan.dcm")])
    assert not pydicom.dcmread(tmp_path / "sr.dcm").get(key)


def test_uids_depend_on_the_seed(tmp_path: Path) -> None:
    path = save(tmp_path, **PERSON)
    uids, dumps = [], []
    for number, seed in enumerate((0, 0, 1, None, None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, [result(path)], seed)
        made = [pydicom.dcmread(folder / name) for name in ("seg.dcm", "probabilities.dcm", "sr.dcm")]
        uids.append([uid for one in made for uid in (one.SOPInstanceUID, one.SeriesInstanceUID)])
        dump = re.sub(r"\(0008,00(12|13|23|33|21|31)\).*|.*(Date|Time).*", "", str(made[0]))
        dumps.append(dump)
        assert len(set(uids[-1])) == 6
    assert uids[0] == uids[1]
    assert dumps[0] == dumps[1]
    assert len({*uids[1], *uids[2], *uids[3], *uids[4]}) == 24
    (tmp_path / "other").mkdir()
    changed = result(path)
    changed.labels[0, 0] = 1
    write(tmp_path / "other", [changed])
    assert pydicom.dcmread(tmp_path / "other" / "seg.dcm").SOPInstanceUID != uids[0][0]


def test_deidentified(tmp_path: Path) -> None:
    path = save(tmp_path, **PERSON)
    write(tmp_path, [result(path)], deidentify=True)
    secrets = [
        value for key, value in PERSON.items() if not key.endswith("UID") and key not in ("PatientSex",)
    ]
    for name in ("seg.dcm", "probabilities.dcm", "sr.dcm"):
        data = (tmp_path / name).read_bytes()
        for secret in (*secrets, "Jane", "Doe^"):
            assert secret.encode() not in data, (name, secret)
        made = pydicom.dcmread(tmp_path / name)
        assert made.PatientIdentityRemoved == "YES"
        assert made.DeidentificationMethod == "Basic Application Confidentiality Profile"
        assert made.StudyInstanceUID == PERSON["StudyInstanceUID"]
        assert made.PatientSex in (None, "")


def test_measurements_of_a_report(tmp_path: Path) -> None:
    path = save(tmp_path, frames=3, **PERSON)
    given = [result(path, frame, 3) for frame in range(3)]
    write(tmp_path, given)
    report = hd.sr.srread(tmp_path / "sr.dcm")
    groups = report.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == [
        "Lesion 1, frame 1", "Lesion 1, frame 2", "Lesion 1, frame 3", "Nerve 2, frame 3"
    ]  # fmt: skip
    values = {m.name.meaning: (m.value, m.unit.value) for m in groups[3].get_measurements()}
    assert values["Area"] == (pytest.approx(15 * 15 * 0.02), "mm2")
    assert values["Long axis"] == (pytest.approx(np.hypot(1.5, 3.0), rel=1e-5), "mm")
    unscaled = [result(path, frame, 3, (np.nan, np.nan)) for frame in range(3)]
    write(tmp_path, unscaled)
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    assert {m.unit.value for m in groups[3].get_measurements()} == {"{pixels}"}


def test_categories_have_the_codes_of_pydicoms_dictionary() -> None:
    from pydicom.sr._concepts_dict import concepts

    known: dict[str, list] = {}
    for name in concepts["SCT"].values():
        for code, meanings in name.items():
            known.setdefault(code, []).append(meanings)
    for category in CATEGORIES.values():
        for value, scheme, meaning in category:
            assert scheme == "SCT"
            assert meaning.casefold() in {one[0].casefold() for one in known[value]}


@pytest.mark.parametrize(
    ("frames", "sop_class"),
    [(1, UltrasoundImageStorage), (3, UltrasoundMultiFrameImageStorage), (3, EnhancedUSVolumeStorage)],
)
@pytest.mark.parametrize("deidentify", [False, True])
def test_dciodvfy_finds_no_error(tmp_path: Path, frames: int, sop_class: str, deidentify: bool) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy of Debian's dicom3tools is not installed")
    path = save(tmp_path, frames=frames, SOPClassUID=sop_class, **PERSON)
    write(tmp_path, [result(path, frame, frames) for frame in range(frames)], deidentify=deidentify)
    for name in ("seg.dcm", "probabilities.dcm", "sr.dcm"):
        process = subprocess.run(
            ["dciodvfy", "-new", str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        assert "Error" not in process.stderr + process.stdout, process.stderr


def test_dcmqi_reads_pixels_and_geometry(tmp_path: Path) -> None:
    reader = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
    if reader is None:
        pytest.skip("segimage2itkimage of dcmqi is not installed")
    path = save(tmp_path, frames=3, **PERSON)
    given = [result(path, frame, 3) for frame in range(3)]
    write(tmp_path, given)
    command = [reader, "--inputDICOM", "seg.dcm", "--outputDirectory", ".", "--prefix", "s", "-t", "nrrd"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    image = sitk.ReadImage(str(tmp_path / "s-1.nrrd"))
    assert image.GetSpacing() == pytest.approx((0.2, 0.1, 1.0))
    assert image.GetOrigin() == pytest.approx((0, 0, 0))
    expected = np.stack([one.labels == 1 for one in given])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image) == 1, expected)
    names = json.loads((tmp_path / "s-meta.json").read_text())["segmentAttributes"]
    assert [item["SegmentLabel"] for (item,) in names] == ["Lesion 1", "Nerve 2"]
