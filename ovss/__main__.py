"""`python -m ovss`: the command `ovss`."""

from ovss.cli.main import main

if __name__ == "__main__":
    main()
