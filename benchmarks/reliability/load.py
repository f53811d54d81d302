"""Requests to a running annotation server from several clients at a time: none fails, none hangs."""

from __future__ import annotations

import argparse
import random
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trials import run_trials

PATHS = ("/info/", "/datastore/", "/datastore/?output=all", "/train/", "/nowhere", "/logs/?lines=5")
PATHS += ("/datastore/image?image=none", "/activelearning/random", "/session/none")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()

    def ask(number: int) -> str:
        rng = random.Random(number)
        method = rng.choice(["GET", "GET", "GET", "POST", "PUT", "DELETE"])
        body = rng.randbytes(rng.randrange(2000)) if method in ("POST", "PUT") else None
        request = urllib.request.Request(options.url + rng.choice(PATHS), data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            return f"{method} {request.selector}: {error.code}" if error.code >= 500 else ""
        except OSError as error:
            return f"{method} {request.selector}: {error}"
        return ""

    def trial(batch: int) -> str:
        numbers = range(batch * options.clients, (batch + 1) * options.clients)
        with ThreadPoolExecutor(options.clients) as pool:
            return "; ".join(filter(None, pool.map(ask, numbers)))

    run_trials(-(-options.requests // options.clients), options.state, trial, "load, batches of requests")


if __name__ == "__main__":
    main()
