"""The trials of a sweep: stacked heads in one process each, or trials of Ray Tune.

Reading order: records, stacked, trial, ray_tune.
"""
