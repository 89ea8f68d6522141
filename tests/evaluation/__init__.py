"""Evaluations that print tables."""
