"""How a model is trained on Ray and becomes a checkpoint.

Reading order: epoch_log, ray_train, checkpoint_folder, plan.
"""
