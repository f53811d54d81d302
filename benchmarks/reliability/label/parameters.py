"""Parameters, names and JSON that cannot be right: inference, training, scoring, sessions, weights."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from label.sending import Request, body, request
from label_attacks import archive_of, as_png, picture
from label_server import AUTOMATIC, INTERACTIVE

DEEP = "[" * 3000 + "]" * 3000
VALUES = ("NaN", "-Infinity", "1e400", "9" * 400, '"\\ud800"', '"\\u0000\\u202e"', DEEP, "[[[[1]]]]", "{}")
VALUES += ("true", '"../../../etc/passwd"', '"' + "x" * 70_000 + '"', "[" + "1," * 30_000 + "1]", "-1", "1.5")
PARAMETERS = ("foreground", "background", "roi", "slice", "device", "model_filename", "result_extension")
PARAMETERS += ("result_dtype", "result_compress", "restore_label_idx", "label_tag", "save_label", "logging")
POINTS = (
    "[[NaN, 1]]",
    "[[1e9, 1e9]]",
    "[[-5, 3]]",
    "[[1, 2, 3, 4]]",
    '[["1", "2"]]',
    "[[true, 1]]",
    "[[[1, 2]]]",
)
POINTS += ("[[1e308, -1e308]]", "[null]", '{"x": 1}', "[[5, 5, 10000000000000000000]]", "[[5, 5, 3]]", "[[]]")
BOXES = (
    "[1, 2, 3]",
    "[9, 9, 9, 9]",
    "[NaN, 0, 5, 5]",
    "[500, 500, 600, 600]",
    "[-9, -9, -1, -1]",
    '["a", 1, 2, 3]',
)
BOXES += (
    "[[1, 2], [3]]",
    "[1, 5, 1, 5, 3, 9]",
    "[0, 0, 1e30, 1e30]",
    "[null, null, null, null]",
    "[1, 5, 1, 5, 1]",
)


def prompt_requests() -> Iterator[Request]:
    """Inference with one parameter that cannot be right; some may be passed over."""
    path = f"/infer/{INTERACTIVE}?image=us_0&output=json"
    for key in PARAMETERS:
        for value in VALUES:
            text = f'{{"{key}": {value}}}'
            yield request(f"{key} {value[:20]}", "POST", path, may_work=True, data={"params": text})
    for key, values in (("foreground", POINTS), ("background", POINTS), ("roi", BOXES)):
        for value in values:
            text = f'{{"{key}": {value}}}'
            yield request(f"{key} {value}", "POST", path, may_work="1e30" in value, data={"params": text})
    for text in ("", "null", '""', "{", "{}{}", '{"roi": [1,2,9,9],}', "\x00", "\ufeff{}", "'{}'", "nan"):
        yield request(f"params {text!r}", "POST", path, may_work=text in ("", "{}"), data={"params": text})
    twice = [("params", '{"roi": [1, 2, 30, 30]}'), ("params", "{no")]
    yield request("params twice", "POST", path, may_work=True, data=twice)
    for query in (
        "output=none",
        "image=us_0&image=../us_1",
        "session_id=%00",
        "image=",
        "image[]=us_0",
        "image=US_0",
    ):
        yield request("query", "POST", f"/infer/{INTERACTIVE}?{query}")


JOBS = (
    f"/train/{AUTOMATIC}",
    "/scoring/predicted_iou",
    f"/batch/infer/{AUTOMATIC}",
    "/activelearning/random",
)
JOB_KEYS = ("max_epochs", "val_split", "learning_rate", "batch_size", "pretrained", "device")


def job_requests() -> Iterator[Request]:
    """Training, scoring, batches, sessions and models with what cannot be right."""
    for value in ("NaN", "-1", "1e400", '"x"', "[]", "{}", "true", DEEP, "9" * 300):
        for key in JOB_KEYS:
            text = f'{{"{key}": {value}}}'
            harmless = (key, value) in (("pretrained", "true"), ("device", "[]"), ("device", "{}"))
            yield body(f"{key} {value[:20]}", f"{JOBS[0]}?run_sync=true", text, harmless)
        for key, path in (("max_samples", JOBS[1]), ("max_batch_size", JOBS[2]), ("images", JOBS[2])):
            text = f'{{"{key}": {value}}}'
            yield body(
                f"{key} {value[:20]}",
                f"{path}?run_sync=true",
                text,
                value in ("[]", "true") or key != "images",
            )
        yield body(f"client_id {value[:20]}", JOBS[3], f'{{"client_id": {value}}}', True)
    for path in JOBS:
        for text in ("", "null", "[]", '"x"', "7", "{", "{}{}", "\x00", "\xff", '{"a": 1e400, "b": NaN'):
            yield body(f"body {text!r}", f"{path}?run_sync=true", text, text in ("", "null"))
    for path in ("/train/", "/scoring/", "/batch/infer"):
        yield request("with junk", "GET", f"{path}?check_if_running=maybe")
        yield request("nothing runs", "DELETE", path, may_work=True)
    for path in (
        "/train/x",
        "/train/..%2f",
        "/scoring/x",
        "/batch/infer/%2e%2e",
        "/activelearning/%00",
        "/infer/%ff",
    ):
        yield body("unknown", path, "{}", may_work="%2f" in path)  # it is sent to another address
    for name in (
        "x",
        "%2e%2e",
        "..%5c..",
        "a" * 4000,
        "%F0%9F%92%A3",
        f"{AUTOMATIC}%00",
        f"{AUTOMATIC}/../{INTERACTIVE}",
    ):
        for path in (f"/model/{name}", f"/model/info/{name}", f"/session/{name}"):
            yield request("unknown", "GET", path, may_work="/../" in name)
        yield request("unknown", "DELETE", f"/session/{name}")
        yield request("weights", "PUT", f"/model/{name}", files={"file": ("m.pt", b"x")}, may_work=False)
    for name, content in weight_files().items():
        yield request(f"weights {name}", "PUT", f"/model/{AUTOMATIC}", files={"file": ("model.pt", content)})
    for expiry in ("-1", "1e3", "9" * 30, "nan", "0x10"):
        files = {"files": ("x.png", as_png(picture(0)))}
        yield request("expiry", "PUT", f"/session/?expiry={expiry}", may_work=True, files=files)
    for lines in ("0", "5001", "1.5", "x", "-5", "9" * 50):
        yield request("lines", "GET", f"/logs/?lines={lines}")
        yield request("cases", "GET", f"/datastore/dataset?limit_cases={lines}", may_work=True)


def saved(content: Any) -> bytes:
    """A file of PyTorch."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def weight_files() -> dict[str, bytes]:
    """Files of weights that are none of this network's."""
    base = torch.zeros(4)
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"(" * 10**5 + b".")
        archive.writestr("archive/version", b"3\n")
    return {
        "sparse": saved({"a": torch.eye(5).to_sparse()}),
        "complex": saved({"a": torch.zeros(5, dtype=torch.complex64)}),
        "quantized": saved({"a": torch.quantize_per_tensor(torch.zeros(5), 0.1, 0, torch.qint8)}),
        "meta": saved({"a": torch.zeros(10**6, 10**6, device="meta")}),
        "expanded": saved({"a": torch.zeros(1).expand(10**5, 10**5)}),
        "half": saved({"a": torch.zeros(5, dtype=torch.float16)}),
        "shared": saved({f"a{k}": base for k in range(1000)}),
        "names": saved({"x" * 10**6: base, "\ud800": base, "\n": base}),
        "deep pickle": member.getvalue(),
        "an old file": torch_legacy(),
        "a tar": archive_of("w", "data.pkl", b"x"),
        "a gz": archive_of("w:gz", "data.pkl", b"x"),
        "nested": saved({"state_dict": {"model": {"a": base}}}),
    }


def torch_legacy() -> bytes:
    """A file in the form before archives."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()
