"""The command `lngd`."""


def main() -> None:
    """Runs the command line; torch is imported here, which takes a second or two."""
    from lngd_bench.cli.app import run

    run()
