"""All methods of this package, registered by name. Importing it imports no torch."""

from __future__ import annotations

from hybridcascade.methods.registry import MethodEntry, register_method

__all__ = ["CATALOGUE"]

CATALOGUE = (
    MethodEntry(
        name="zero_shot",
        target="hybridcascade.methods.zero_shot:ZeroShot",
        summary="CLIP as it is: image features against the mean text of each class",
        images="none",
        trains="nothing",
    ),
    MethodEntry(
        name="text_only",
        target="hybridcascade.methods.text_only:TextOnly",
        summary="a linear head trained on noisy text features (LaFTer's first stage)",
        images="none",
        trains="linear head",
    ),
    MethodEntry(
        name="lafter",
        target="hybridcascade.methods.lafter:Lafter",
        summary="the head's hard labels on plain views train prompts and LayerNorms on strong views",
        images="unlabelled",
        trains="linear head, visual LayerNorms, shallow prompts",
    ),
    MethodEntry(
        name="hybrid_cascade_seed",
        target="hybridcascade.methods.hybrid_cascade_seed:HybridCascadeSeed",
        summary="three fused stages over LaFTer's labels, as the seed documents describe it",
        images="unlabelled",
        trains="linear head, LayerNorms, prompts, stage alignment, NGA sigmas, stage weights",
    ),
    MethodEntry(
        name="hybrid_cascade",
        target="hybridcascade.methods.hybrid_cascade:HybridCascade",
        summary="our best: balanced soft labels of a frozen teacher, cosine logits, stages beside CLIP's own path",
        images="unlabelled",
        trains="head, LayerNorms, neutral prompts, stage alignment, NGA sigmas, stage weights (each can be switched)",
        tunes=("full", "heads"),
    ),
    MethodEntry(
        name="multilayer",
        target="hybridcascade.methods.multilayer:MultiLayer",
        summary="four segments of the tower with prompts, NGA and weights of their own, unfrozen from deep to shallow",
        images="unlabelled",
        trains="head, prompts of each segment, segment alignment, NGA sigmas, segment weights, LayerNorms",
    ),
    MethodEntry(
        name="cascade_clip",
        target="hybridcascade.methods.cascade_clip:CascadeClip",
        summary="Cascade-CLIP turned to classification: text-image decoders on the patches of each stage, summed",
        images="unlabelled",
        trains="decoders, stage alignment, NGA sigmas, class bias (prompts and LayerNorms can be switched on)",
        tunes=("full", "heads"),
    ),
    MethodEntry(
        name="linear_probe",
        target="hybridcascade.methods.linear_probe:LinearProbe",
        summary="the supervised reference: a linear head on frozen features",
        images="targets",
        trains="linear head",
        tunes=("full", "heads"),
    ),
)

for _entry in CATALOGUE:
    register_method(_entry)
