"""Measurements without a plan: virtual workers beside real ones, theory, and how far workers are apart."""
