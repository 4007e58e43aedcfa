"""What a run found, for people and machines: output folder, terminal tables, JSON, one page."""
