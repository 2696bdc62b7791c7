"""The `dnnjob` command, also as `python -m dnnjob`; a shell that completes is answered first."""

from dnnjob.completion import answer_shell


def main() -> None:
    """Runs the command line, or tells a shell how it goes on."""
    if answer_shell():
        return
    from dnnjob import cli

    cli.main()


if __name__ == "__main__":
    main()
