"""Small programs that make what is checked in."""
