"""What `scope` saw, drawn: in the terminal and as a page."""
