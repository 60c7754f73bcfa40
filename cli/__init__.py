"""The `sluice` command: thin, no logic."""
