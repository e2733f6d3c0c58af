"""Plain nn.Modules: no Ray, no MLflow.

The modules up to portable but clip_library import no torch: they tell what decides a result, so that stored ones are
found at once.

Reading order: clip_folders, clip_families, clip_source, pretrained_source, identity, clip_library, weights, memory,
checkpoint_files, portable, clip_archive, trainable_state, clip_weights, clip, prompts, temporal_pooling, lora, tower,
tower_timm, tower_text, emovclip, reference, hidden_states, pretrained, pitch, spectra, functionals, opensmile_sets,
audio, text, transcriber, neighbours, fusion, classical_head, head_average, familiarity, onnx_export, checkpoint,
joint.
"""
