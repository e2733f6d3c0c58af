"""How a model is trained on Ray and becomes a checkpoint.

Reading order: plan, balance, epoch_log, folds, streaming, ray_train, video_job, joint, heads, checkpoint_folder,
phases.
"""
