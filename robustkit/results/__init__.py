"""Finding results: evaluations by name, and what is on record of networks. Needs no torch."""
