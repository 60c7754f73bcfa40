"""The engine process: loop, model, KV pool, runner, sampler and eviction policies."""
