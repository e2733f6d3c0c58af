"""Plain nn.Modules: no Ray, no MLflow.

Reading order: clip_formats, clip, prompts, temporal, emovclip, reference, pooling, pretrained, audio, text, fusion,
state, checkpoint.
"""
