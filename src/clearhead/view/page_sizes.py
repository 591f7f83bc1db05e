"""How much a page may hold, unless said."""

BUDGET = "7.5 MB"
"""What the weights may take in a page: a mail will carry it."""
NOTEBOOK = "2 MB"
"""What a cell may add to a notebook."""
