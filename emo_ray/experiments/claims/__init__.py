"""The paper's claims in miniature, on synthetic worlds. Reading order: trials, self_training, comparisons, claims."""
