"""Where the activations of a traced program are, and what each of them is."""
