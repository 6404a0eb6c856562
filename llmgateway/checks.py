"""Mistakes in how the site is told to be reached, said aloud by `manage.py check` and at every start."""
