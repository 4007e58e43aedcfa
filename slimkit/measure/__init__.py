"""Measuring: every file gives one kind of figure, as a frozen record with its units and conditions."""
