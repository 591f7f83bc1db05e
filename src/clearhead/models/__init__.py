"""Models: finding and opening real checkpoints."""
