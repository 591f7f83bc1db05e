"""The server: the page of a text that is typed into it, read by a model on this machine."""
