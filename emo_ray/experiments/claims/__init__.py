"""The paper's claims in miniature, on synthetic worlds, by the stages that jobs run.

Reading order: trials, baselines, supervised, self_training, comparisons, options,
gap_world, gap_trials, gap_report, gap, claims.
"""
