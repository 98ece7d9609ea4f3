"""`python -m lngd doctor module:factory`: what will become of a model of yours, and what it will cost, before any training."""

import argparse
import sys
import warnings

from lngd.doctor import METHODS, DoctorError, examine
from lngd.version import versions


def main() -> None:
    """A mistake in the arguments is one line on standard error and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m lngd", description="Natural-gradient training for PyTorch.")
    parser.add_argument("--version", action="version", version=versions(), help="versions of lngd, torch and Python")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    words = "prints what becomes of every parameter of your model, and what curvature costs in bytes and time"
    doctor = commands.add_parser("doctor", help=words, description=words[0].upper() + words[1:] + ".")
    doctor.add_argument("factory", metavar="MODULE:FACTORY", help="a function without arguments that gives the model")
    doctor.add_argument("--input", metavar="SHAPE", help="times a step on it: 32x3x224x224, batch first")
    doctor.add_argument("--tokens", metavar="N", type=int, help="the input holds whole numbers from 0 to N - 1")
    doctor.add_argument("--optimizer", choices=METHODS, default="SpectralLNGD", help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.command is None:
        parser.print_help()
        return
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        for line in examine(arguments.factory, arguments.input, arguments.tokens, METHODS[arguments.optimizer]):
            print(line, flush=True)
    except DoctorError as error:
        print(f"lngd: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
