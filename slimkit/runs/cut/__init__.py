"""The stages of `compress`, from what is known before any budget to what is left after recovery."""
