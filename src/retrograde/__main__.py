"""`python -m retrograde`: the command, where its script is not on the path."""

from retrograde.cli import main

if __name__ == "__main__":
    main()
