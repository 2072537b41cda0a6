"""`python -m gslm`, which is how `torchrun` and `accelerate launch` start it."""

from gslm.cli import main

if __name__ == "__main__":
    main()
