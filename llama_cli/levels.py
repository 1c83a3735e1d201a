"""A level of the program's log beside those of Python's."""

# Between INFO and WARNING: nothing is wrong, and a person wants to know it without having asked with -v.
NOTE = 25
