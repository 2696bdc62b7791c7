"""python -m dnnjob"""

from dnnjob.cli import main

main()
