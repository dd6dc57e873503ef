"""Studies: a question about many trainings, the cells it needs, and what came out of them."""
