"""The command `lngd`."""

import sys

INTERRUPTED = 130
"""The exit status of a command that Ctrl-C ended."""


def main() -> None:
    """Runs the command line; torch is imported here, which takes a second or two."""
    try:
        from lngd_bench.cli.app import run

        run()
    except KeyboardInterrupt:  # before there was anything to keep
        sys.exit(INTERRUPTED)
