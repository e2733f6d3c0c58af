"""Measurements of the product itself: its claims and its speed. Reading order: claims, bench."""
