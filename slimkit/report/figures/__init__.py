"""Plots of a report: numbers in, a matplotlib figure and what to say on hover out."""
