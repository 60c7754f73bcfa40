"""The contract: one .proto and the stubs generated from it (`make proto`)."""
