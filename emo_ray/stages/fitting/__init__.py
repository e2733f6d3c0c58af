"""How a model is trained on Ray and becomes a checkpoint.

Reading order: plan, epoch_log, ray_train, heads, checkpoint_folder, phases.
"""
