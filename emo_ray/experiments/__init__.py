"""Measurements of the product itself: its claims, its speed, and how it fails. Reading order: claims, bench, chaos."""
