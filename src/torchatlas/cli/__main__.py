"""`python -m torchatlas.cli`."""

from . import main

main()
