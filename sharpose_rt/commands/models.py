"""Lists the variants of the network, with input size, tokens, parameters and multiply-accumulates (all computed)."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

HELP = "list the networks: input, tokens, parameters, GMACs, weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt models`."""
    parser.add_argument(
        "--behaviour",
        choices=("paper", "released"),
        default="released",
        help="count the network as the paper describes it, or as in the authors' released code, on which the paper's "
        "Table 2 was measured (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from sharpose_rt.models import VARIANTS

    rows = [describe(name, args.behaviour) for name in VARIANTS]
    if args.json:
        print(json.dumps({"behaviour": args.behaviour, "models": rows}, indent=2))
    else:
        _print_table(rows, args.behaviour)
    return 0


def describe(name: str, behaviour: str) -> dict[str, Any]:
    """The facts about a variant: its size, the fields of `Cost`, and whether weights are included for it."""
    from sharpose_rt.models import find_behaviour, find_variant
    from sharpose_rt.models.cost import measure_cost
    from sharpose_rt.models.weights import BUNDLED

    variant = find_variant(name)
    cost = measure_cost(variant, find_behaviour(behaviour))
    return {
        "name": name,
        "input_hw": list(variant.size_hw),
        "keypoints": variant.skeleton.name,
        "width": variant.width,
        "depth": variant.depth,
        "alpha": variant.alpha,
        **asdict(cost),
        "both_gmacs": cost.both_gmacs,
        "bundled_weights": (BUNDLED / f"{name}.safetensors").is_file(),
    }


def _print_table(rows: list[dict[str, Any]], behaviour: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for heading in ("input\nHxW", "width", "tokens\ncoarse/fine", "parameters\nM"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("coarse\nGMACs", "fine", "both", "Table 2\ncounting"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for row in rows:
        gmacs = (row[f"{key}_gmacs"] for key in ("coarse", "fine", "both", "dense"))
        table.add_row(
            row["name"],
            "{}x{}".format(*row["input_hw"]),
            str(row["width"]),
            f"{row['coarse_tokens']}/{row['fine_tokens']}",
            f"{row['parameters'] / 1e6:.2f}",
            *(f"{value:.2f}" for value in gmacs),
            "bundled" if row["bundled_weights"] else "-",
        )
    # A narrow terminal may wrap the lines, and a pipe has no width; a truncated table would be useless.
    console = Console(highlight=False, width=max(Console().width, 100))
    console.print(table)
    console.print(
        f"\nBehaviour: {behaviour}. GMACs of one crop: 'coarse' if its quality reaches the threshold, 'both' if "
        "it is refined.\n'Table 2 counting' is 'both' as the paper counts it: with every fine patch embedded; here "
        "only those of selected cells are.\n`--model` also takes a .onnx or .xml file of "
        "another project's network (`track`, `eval`, `bench pipeline`)."
    )
