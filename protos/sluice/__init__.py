"""Package sluice of the contract."""
