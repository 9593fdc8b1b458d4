"""One traced program and what can be read off it."""
