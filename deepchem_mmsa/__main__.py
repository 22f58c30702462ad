"""``python -m deepchem_mmsa``: the command line."""

from deepchem_mmsa.cli import main

if __name__ == "__main__":
    main()
