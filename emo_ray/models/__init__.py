"""Plain nn.Modules: no Ray, no MLflow.

Reading order: clip_formats, clip, prompts, temporal_pooling, emovclip, reference, hidden_states, pretrained, audio,
text, fusion, trainable_state, checkpoint.
"""
