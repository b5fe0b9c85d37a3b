"""`python -m logcluster` is the command `logcluster`."""

from logcluster.cli.app import main

if __name__ == "__main__":
    main()
