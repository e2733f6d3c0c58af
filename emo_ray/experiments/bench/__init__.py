"""Speed, as ratios within one run.

Reading order: timing, step, data, jobs, sweep, growth, commands, capacity, bench.
"""
