"""Average the weights of several runs that started from the same network, a "model soup".

``python -m lmsfe_sam.training.soup A/model.pt B/model.pt --output model.pt`` writes the mean of two runs'
weights. Runs that went different ways from the same start often lie in one basin, and the mean is then
better than each of them at the cost of one (Wortsman et al., "Model soups", ICML 2022). Whether it is has
to be measured: evaluate what comes out.

``--keep image_encoder`` takes that part from the first file alone, and averages the others in the rest: a
decoder that learnt new prompts or structures goes with an encoder that has forgotten nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import cast

from torch.optim.swa_utils import AveragedModel

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.files import named_path, remove_leftovers_of
from lmsfe_sam.model.checkpoints import network_from_checkpoint, save_weights, seal_weights
from lmsfe_sam.model.network import LMSFESAM


def average_checkpoints(paths: Sequence[str | os.PathLike[str]], keep: Sequence[str] = ()) -> LMSFESAM:
    """Return the network whose weights and running statistics are the mean of those in the files.

    Args:
        paths: ``NAME.pt`` of training runs, with ``NAME.json`` beside each if there is one.
        keep: parts of the network, such as ``image_encoder``, that come from the first file alone; the first
            file then does not count in the mean of the rest.

    Raises:
        InputError: fewer than two files, a file that cannot be loaded, networks that are built differently,
            or a part that the network does not have.
    """
    if len(paths) < 2:
        raise InputError(f"{len(paths)} checkpoint is nothing to average: name two or more.")
    first = network_from_checkpoint(paths[0])
    parts = dict(first.named_children())
    for name in keep:
        if name not in parts:
            raise InputError(f"keep '{name}' is no part of the network: give one of {', '.join(parts)}.")
    average = AveragedModel(first, use_buffers=True)
    if not keep:
        average.update_parameters(first)
    for path in paths[1:]:
        network = network_from_checkpoint(path)
        if network.describe() != first.describe():
            raise InputError(
                f"checkpoint '{path}' is of another network than '{paths[0]}' ({network.describe()} and "
                f"{first.describe()}): average runs of one network."
            )
        average.update_parameters(network)
    mean = cast(LMSFESAM, average.module)
    for name in keep:
        mean.get_submodule(name).load_state_dict(parts[name].state_dict())
    return mean


def main(arguments: Sequence[str] | None = None) -> None:
    """Average the files of the command line."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.training.soup", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("checkpoints", nargs="+", type=named_path, help="model.pt of two or more runs")
    parser.add_argument("--keep", nargs="+", default=[], help="parts that come from the first file alone")
    parser.add_argument("--output", required=True, type=named_path, help="the file to write, NAME.pt")
    options = parser.parse_args(arguments)
    if options.output.suffix != ".pt":
        parser.error(f"--output {options.output} has to end in .pt")
    remove_leftovers_of(options.output, options.output.with_suffix(".json"))
    save_weights(average_checkpoints(options.checkpoints, options.keep), options.output)
    seal_weights(options.output)
    kept = f", with {' and '.join(options.keep)} of {options.checkpoints[0]}" if options.keep else ""
    averaged = len(options.checkpoints) - bool(options.keep)
    print(f"{options.output}: the mean of {averaged} checkpoint{'s' * (averaged > 1)}{kept}.")


if __name__ == "__main__":
    main()
