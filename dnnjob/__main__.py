"""`python -m dnnjob`: the same command as `dnnjob`."""

from dnnjob.cli import main

main()
