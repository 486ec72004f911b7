"""The arguments of `top`, apart from what it needs when it runs."""

import argparse
from typing import Final

EXAMPLES: Final = """\
examples:
  sudo picosnitch-exporter top                  what talks right now; h shows the keys
  sudo picosnitch-exporter top --interval 5     look every 5 s
  sudo picosnitch-exporter top --once | head    the table once, for a script
  ssh -t HOST sudo picosnitch-exporter top      elsewhere

Members of storage.group need no sudo.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds what `top.run` reads."""
    parser.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="time between two looks (default: 1)",
    )
    parser.add_argument(
        "--once", action="store_true", help="print the table once, with rates over one second"
    )
    parser.add_argument(
        "--no-color", action="store_true", help="no colours, as with NO_COLOR in the environment"
    )
