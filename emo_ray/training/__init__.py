"""The only training loop, its loss and its metrics: no Ray, no MLflow.

Reading order: seeds, loss, metrics, bootstrap, comparison, calibration, pseudo_label_policies, divergence, optimizer,
weight_average, run_state, augmentation, wait_timer, loop, in_memory, stacked_forward, stacked_noise, stacked_clips,
stacked_rows, stacked_parameters, stacked_trunk, stacked_adamw, stacked_steps, compiled_arrays, compiled_head,
compiled_heads, stacked_validation, stacked_heads, stacked_epochs, head_stacks, scoring, floors, classical_heads,
selection, speaker_variances, speaker_scaling, held_out, search, mini_clip.
"""
