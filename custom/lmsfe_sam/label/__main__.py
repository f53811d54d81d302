"""Start a MONAI Label server with this bundle, on this machine alone and without the internet.

``python -m lmsfe_sam.label --studies FOLDER`` serves the bundle under two names: one segments without a
prompt, the other, with ``deepgrow`` in its name, by clicks and boxes.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.label.start import check_version, configured_app, prepare_app, set_log

NAMES = "lmsfe_sam_ultrasound_segmentation,lmsfe_sam_ultrasound_deepgrow"
BUNDLE = Path(__file__).resolve().parents[3] / "bundle"
TOKEN = "LMSFE_SAM_TOKEN"
"""Environment variable: a token that other users of the machine do not see in its list of processes."""

EXTRAS = ("dataset", "logs")


def main(arguments: list[str] | None = None) -> None:
    """Prepare the app's folder and serve it until interrupted.

    Raises:
        InputError: MONAI Label is not installed, or an option that cannot be right.
    """
    options = _parser().parse_args(arguments)
    check_version()
    is_web = options.studies.startswith(("http://", "https://"))
    if not is_web and not Path(options.studies).is_dir():
        raise InputError(f"studies '{options.studies}' is not a folder: give the folder of the images.")
    names = [name.strip() for name in options.names.split(",")]
    token = _token(options.token, options.host)
    hosts = _hosts(options.host, options.allow_host)
    origins = tuple(_origin(text) for text in options.allow_origin)
    extras = _extras(options.enable)
    _check_numbers(options)
    _check_certificate(options)
    app = Path(options.app).resolve()
    prepare_app(app, Path(options.bundle), names)
    log = set_log(app, options.verbose)
    with configured_app(app, options.studies, names, options.max_pixels) as instance:
        from lmsfe_sam.label.server import Rules, build, serve
        from lmsfe_sam.label.state import State

        rules = Rules(hosts, origins, token, int(options.max_body * 2**20), options.timeout, extras)
        application = build(State(instance, str(log)), rules)
        serve(
            application,
            options.host,
            options.port,
            options.timeout,
            options.ssl_certfile,
            options.ssl_keyfile,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m lmsfe_sam.label", description=__doc__)
    add = parser.add_argument
    add("--studies", required=True, help="folder of images, or a DICOMweb address")
    add("--bundle", default=str(BUNDLE), help=f"the bundle's folder (default {BUNDLE})")
    add("--app", default="runs/label", help="the server's own folder (default runs/label)")
    add("--names", default=NAMES, help=f"what it is served as (default {NAMES})")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1); others need --token")
    add("--port", type=int, default=8000, help="port to listen on (default 8000)")
    add("--token", default="", help=f"what every request must send, here or in the environment as {TOKEN}")
    add(
        "--allow_host",
        action="append",
        default=[],
        help="a name that the server is reached by, too; repeat it",
    )
    add(
        "--allow_origin", action="append", default=[], help="of a web page that may use the server; repeat it"
    )
    add("--ssl_certfile", help="TLS certificate: the server speaks https")
    add("--ssl_keyfile", help="the certificate's key")
    add("--enable", default="", help=f"what is off otherwise: {', '.join(EXTRAS)}, separated by commas")
    add("--max_body", type=float, default=512, help="largest upload in MB (default 512)")
    add("--max_pixels", type=int, default=2**27, help="most pixels of an image (default 2**27)")
    add(
        "--timeout",
        type=float,
        default=15,
        help="seconds for headers, or a slow body (default 15)",
    )
    add("--verbose", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="how much is logged")
    return parser


def _token(given: str, host: str) -> str:
    token = given or os.environ.get(TOKEN, "")
    os.environ.pop(TOKEN, None)  # not for the processes that are started
    if os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("1", "true", "yes", "on"):
        raise InputError("MONAI_LABEL_AUTH_ENABLE is not supported: unset it and give a --token.")
    if not token and not is_loopback(host):
        raise InputError(
            f"--host {host} is open to the network: give a --token for clients to send, or leave it out."
        )
    if token and (not token.isascii() or not token.isprintable() or " " in token):
        raise InputError("--token has spaces or other characters than ASCII's: give letters and digits.")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _hosts(host: str, more: list[str]) -> tuple[str, ...]:
    from lmsfe_sam.label.guard import LOOPBACK

    for name in more:
        if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise InputError(f"--allow_host {name} is not a host's name: give one without scheme and port.")
    bare = host.strip("[]").lower()
    own = () if bare in ("", "0.0.0.0", "::") else (f"[{bare}]" if ":" in bare else bare,)
    return (*LOOPBACK, *own, *(name.lower() for name in more))


def _origin(text: str) -> str:
    parts = urlsplit(text)
    origin = f"{parts.scheme}://{parts.netloc}".lower()
    if parts.scheme not in ("http", "https") or not parts.hostname or "*" in text or "@" in text:
        raise InputError(f"--allow_origin {text} is not an origin: give one such as http://localhost:3000.")
    if text.rstrip("/").lower() != origin:
        raise InputError(f"--allow_origin {text} has a path: give {origin}.")
    return origin


def _extras(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in EXTRAS:
            raise InputError(f"--enable {name} is unknown: give {', '.join(EXTRAS)}.")
    return names


def _check_numbers(options: argparse.Namespace) -> None:
    for key, low in (("max_body", 0.001), ("max_pixels", 1), ("timeout", 0.5)):
        if not getattr(options, key) >= low or getattr(options, key) > 10**12:
            raise InputError(f"--{key} is {getattr(options, key)}: give a number of at least {low}.")


def _check_certificate(options: argparse.Namespace) -> None:
    if options.ssl_keyfile and not options.ssl_certfile:
        raise InputError("--ssl_keyfile is given without --ssl_certfile: give both.")
    for key in ("ssl_certfile", "ssl_keyfile"):
        path = getattr(options, key)
        if path and not Path(path).is_file():
            raise InputError(f"--{key} '{path}' does not exist: give the path of a PEM file.")


if __name__ == "__main__":
    plain_errors()
    main()
