"""``python -m dkey``: the same command line, where the ``dkey`` script is not on the path."""

from dkey.cli import main

if __name__ == "__main__":
    main()
