"""`python -m clearhead`, the same as `clearhead`."""

from clearhead.cli import main

main(prog_name="clearhead")
