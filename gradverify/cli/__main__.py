"""`python -m gradverify.cli`, the same as the command `gradverify`."""

from gradverify.cli import main

if __name__ == "__main__":
    main()
