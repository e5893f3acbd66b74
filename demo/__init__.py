"""Documents and the program that `make demo` runs."""
