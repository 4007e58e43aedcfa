"""What a run reports, as values."""
