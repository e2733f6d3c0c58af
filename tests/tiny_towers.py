"""Tiny towers of each family that docs/towers.md names, and tokenizers with a few words."""

import timm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SIZE = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4}
WORDS = ("neutral", "very", "happy", "sad", "开心", "glücklich", "a", "face")


def _chosen(settings):
    """What open_clip asks of a tower, of all that timm hands on."""
    return {name: settings[name] for name in ("num_classes", "global_pool") if name in settings}


@timm.models.register_model
def vit_tiny_map(pretrained=False, **settings):
    """SigLIP's form: no CLS token, attention pool."""
    return VisionTransformer(**SIZE, class_token=False, **_chosen(settings))


@timm.models.register_model
def vit_tiny_gap(pretrained=False, **settings):
    """No CLS token, the mean of the patches."""
    model = VisionTransformer(**SIZE, class_token=False, global_pool="avg", fc_norm=False)
    model.default_cfg = {}
    return model


@timm.models.register_model
def vit_tiny_cls(pretrained=False, **settings):
    """A ViT with a CLS token, layer scales, and norms of queries and keys."""
    return VisionTransformer(**SIZE, init_values=0.5, qk_norm=True, **_chosen(settings))


@timm.models.register_model
def vit_pe_tiny(pretrained=False, **settings):
    """PE-Core's form: rotated positions beside added ones, a norm in front, attention pool over CLS and patches."""
    rotation = {"use_rot_pos_emb": True, "ref_feat_shape": (2, 2), "rope_grid_offset": 1.0, "rope_grid_indexing": "xy"}
    pool = {"attn_pool_num_heads": 4, "attn_pool_mlp_ratio": 2.0}
    return Eva(**SIZE, attn_type="rope", use_pre_transformer_norm=True, **rotation, **pool, **_chosen(settings))


@timm.models.register_model
def eva02_tiny(pretrained=False, **settings):
    """EVA-02's form: q, k and v apart and no bias of k, SwiGLU, norms inside attention and MLP, rotated positions."""
    mlp = {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "qkv_fused": False, "mlp_ratio": 2.0}
    return Eva(**SIZE, **mlp, use_rot_pos_emb=True, ref_feat_shape=(2, 2), **_chosen(settings))


@timm.models.register_model
def eva_tiny_packed(pretrained=False, **settings):
    """q, k and v in one without a bias of k, a packed SwiGLU, layer scales."""
    return Eva(**SIZE, swiglu_mlp=True, init_values=0.5, **_chosen(settings))


@timm.models.register_model
def eva02_tiny_post_norm(pretrained=False, **settings):
    """The form of EVA-02's largest towers: norms behind attention and MLP."""
    return Eva(**SIZE, use_post_norm=True, **_chosen(settings))


TOWERS = {
    "open_clip, CLS": {},
    "open_clip, mean": {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    "open_clip, normed mean": {"pool_type": "avg"},
    "SigLIP": {"timm_model_name": "vit_tiny_map", "timm_pool": "map", "timm_proj": "none"},
    "timm, CLS": {"timm_model_name": "vit_tiny_cls", "timm_pool": "token", "timm_proj": None},
    "timm, mean": {"timm_model_name": "vit_tiny_gap", "timm_pool": "", "timm_proj": "linear"},
    "PE-Core": {"timm_model_name": "vit_pe_tiny", "timm_pool": "map", "timm_proj": None},
    "EVA-02": {"timm_model_name": "eva02_tiny", "timm_pool": "token", "timm_proj": None},
    "EVA, packed": {"timm_model_name": "eva_tiny_packed", "timm_pool": "token", "timm_proj": None},
    "EVA-02, post-norm": {"timm_model_name": "eva02_tiny_post_norm", "timm_pool": "token", "timm_proj": None},
}
_TEXT = {"context_length": 24, "width": 32, "heads": 4, "layers": 2}
_OTHER = _TEXT | {"vocab_size": 16, "hf_tokenizer_name": "somebody/words"}
TEXTS = {
    "CLIP": _TEXT | {"vocab_size": 49408},
    "MobileCLIP": _TEXT | {"vocab_size": 49408, "no_causal_mask": True},
    "MetaCLIP 2": _OTHER | {"pool_type": "eos", "eos_id": 2},
    "SigLIP 2": _OTHER | {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    "CLIPA": _OTHER
    | {
        "pool_type": "last",
        "no_causal_mask": True,
        "proj_type": "none",
        "width": 24,
        "tokenizer_kwargs": {"strip_sep_token": True},
    },
}


def write_tokenizer(folder, kind):
    """A tokenizer of `WORDS`: with start, end and padding, or as SigLIP's with an end token that also pads."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "$A </s>" if kind == "SigLIP 2" else "<s> $A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(word, vocabulary[word]) for word in special[1:3]]
    )
    padding = "</s>" if kind == "SigLIP 2" else "<pad>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=padding,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)
