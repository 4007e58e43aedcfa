"""The sections of a page: a report in; a section out, or None where the run has nothing to say there."""
