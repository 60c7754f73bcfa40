"""Version 1 of the contract: sluice.proto and its generated stubs."""
