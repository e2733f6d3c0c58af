"""emo_ray: multimodal emotion recognition with vision-language prompting and modality dropout, on Ray."""
