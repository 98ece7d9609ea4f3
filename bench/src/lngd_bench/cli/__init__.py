"""The command `lngd`. Only this file runs without the `bench` extra, to say what is missing."""

import sys
from importlib.util import find_spec

EXTRA = ("typer", "rich", "matplotlib", "sklearn", "mlxtend", "PIL", "sacrebleu", "tokenizers")


def main() -> None:
    """Runs the command line; without the packages it needs, one line that says how to get them."""
    if not all(find_spec(package) for package in EXTRA):
        sys.exit("lngd's commands need the bench extra: pip install 'lngd[bench]'")
    from lngd_bench.cli.app import run

    run()
