"""`python -m selfrewarding` is the command `srr`, for places where scripts are not on PATH."""

from selfrewarding.cli.app import main

if __name__ == "__main__":
    main()
