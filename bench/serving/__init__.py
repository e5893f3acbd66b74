"""How fast it answers over HTTP as the corpus and the number of callers grow, beside its raw parts and beside frameworks."""
