"""Makes the files that calibrated and learned eviction policies need, from text of the model."""
