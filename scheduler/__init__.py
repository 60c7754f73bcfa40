"""Decisions, standard library only: who runs, with how many KV blocks, and what must be evicted."""
