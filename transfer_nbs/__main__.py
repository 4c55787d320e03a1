"""`python -m transfer_nbs compare ...` does what `transfer_compare ...` does."""

from transfer_nbs.commands import main

if __name__ == "__main__": main()
