"""`python -m zofx`: the command line."""

from zofx.cli import main

if __name__ == "__main__":
    main()
