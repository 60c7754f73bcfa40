"""How much of a fault is tried: a little in `make test`, a lot in `make chaos`."""

import os

SCALE = int(os.environ.get("SLUICE_CHAOS", "1"))
"""Times what `make test` does."""
SEED = int(os.environ.get("SLUICE_CHAOS_SEED", "0"))
"""Another one tries other messages."""
