"""Series of a DICOMweb server are answered by DICOM segmentations of their own files."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

import highdicom as hd
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

from data_folders import disc, speckle
from label_attacks import sentence
from label_server import AUTOMATIC, Server, running
from medical_files import save_dicom

STUDY, LOOP, STILLS = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"
BOUNDARY = "part"


class Archive(BaseHTTPRequestHandler):
    """A DICOMweb server with two series: a loop, and two still pictures."""

    series: ClassVar[dict[str, list[bytes]]] = {}

    def do_GET(self) -> None:
        if "/studies/" in self.path:
            uid = self.path.split("/series/")[1].split("/")[0]
            head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            parts = [head + content + b"\r\n" for content in self.series[uid]]
            body = b"".join([*parts, f"--{BOUNDARY}--".encode()])
            kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        else:
            wanted = [uid for uid in self.series if uid in self.path] or list(self.series)
            found = [
                {
                    "0020000D": {"vr": "UI", "Value": [STUDY]},
                    "0020000E": {"vr": "UI", "Value": [uid]},
                    "00080060": {"vr": "CS", "Value": ["US"]},
                }
                for uid in wanted
            ]
            first = "Modality=SEG" not in self.path and ("offset" not in self.path or "offset=0" in self.path)
            body, kind = json.dumps(found if first else []).encode(), "application/dicom+json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def content(folder: Path, name: str, series: str, pixels: np.ndarray, frames: int = 1) -> bytes:
    own = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series}
    if frames > 1:
        own["SOPClassUID"] = UltrasoundMultiFrameImageStorage
    return save_dicom(folder / name, pixels, frames, **own).read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("dicomweb")
    size = (96, 128)
    picture = np.where(disc(size, 20), speckle(1, size) // 4, speckle(1, size)).astype(np.uint8)
    Archive.series = {
        LOOP: [content(folder, "loop.dcm", LOOP, np.stack([picture] * 3), 3)],
        STILLS: [content(folder, f"{k}.dcm", STILLS, picture) for k in range(2)],
    }
    archive = ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    threading.Thread(target=archive.serve_forever, daemon=True).start()
    address: Any = f"http://127.0.0.1:{archive.server_address[1]}/dicom-web"
    with running(address, folder / "app") as started:
        yield started
    archive.shutdown()
    archive.server_close()


def test_a_series_of_one_file_is_answered_by_its_segmentation(server: Server, tmp_path: Path) -> None:
    params = {"roi": [40, 24, 90, 72], "slice": 1}
    response = server.post_infer(LOOP, params, output="dicom_seg")
    assert response.status_code == 200, response.text[:500]
    (tmp_path / "seg.dcm").write_bytes(response.content)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    referenced = seg.ReferencedSeriesSequence[0]
    source = pydicom.dcmread(io.BytesIO(Archive.series[LOOP][0]))
    assert referenced.SeriesInstanceUID == LOOP and seg.StudyInstanceUID == STUDY
    assert referenced.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    group = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert group.ReferencedFrameNumber == 2


def test_a_series_of_several_files_gets_a_sentence(server: Server) -> None:
    response = server.post_infer(STILLS, {"roi": [40, 24, 90, 72]}, output="dicom_seg")
    assert response.status_code == 400
    assert "has 2 files, and a DICOM segmentation is made of one" in sentence(response)


def test_the_model_is_the_automatic_one_too(server: Server) -> None:
    response = server.post_infer(LOOP, {"slice": 0}, model=AUTOMATIC, output="dicom_seg")
    assert response.status_code == 200
