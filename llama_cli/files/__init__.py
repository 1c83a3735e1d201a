"""How files of our own are opened, written and kept: whole, private where they must be, never through a link."""
