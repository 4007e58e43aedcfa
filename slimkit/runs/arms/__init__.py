"""The arms of a study: which there are, one trained to its end, and who trains them."""
