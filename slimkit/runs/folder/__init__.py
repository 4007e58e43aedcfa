"""The folder that a run leaves: claimed, filled, gone on with."""
