"""Looking inside: what passed through a model's attentions, in O(T)."""
