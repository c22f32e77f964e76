"""The parts of a method that an ablation switches, as data. Needs no torch.

A component changes one thing. Values that the full method has already are listed too, so the list holds whatever
the defaults become; `ablate` leaves out a variant that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybridcascade.errors import SettingsError
from hybridcascade.experiments.plans import RowChanges

__all__ = ["COMPONENTS", "FULL", "Component", "component_changes"]

FULL = "full"
"""Label of the method that nothing is changed in."""


@dataclass(frozen=True)
class Component:
    """One variant of an ablation.

    Attributes:
        name: label of its row, as written after `--components`.
        settings: what changes of the method's numbers.
        why: what the variant tells, one line.
        view: another strong view, or None.
    """

    name: str
    settings: Mapping[str, Any]
    why: str
    view: str | None = field(default=None)

    def changes(self) -> RowChanges:
        """The component as a row of a recipe would have it."""
        return RowChanges(settings=dict(self.settings), view=self.view, why=self.why)


_HYBRID_CASCADE = (
    Component("input_alignment_off", {"input_alignment": 0.0}, "colours of the pictures as they are"),
    Component("plan_last", {"plan": "last"}, "CLIP's own last stage alone: what the cascade is worth"),
    Component("pool_cls", {"pool": "cls"}, "shallow stages read the CLS token alone"),
    Component("pool_patch", {"pool": "patch"}, "shallow stages read the mean of the patch tokens alone"),
    Component("pool_both", {"pool": "both"}, "shallow stages read CLS and patch tokens"),
    Component("aggregation_nga", {"aggregation": "nga"}, "Gaussian weights of the blocks in a stage"),
    Component("aggregation_free", {"aggregation": "free"}, "one free weight a block instead of the Gaussian"),
    Component("aggregation_mean", {"aggregation": "mean"}, "the mean of a stage's blocks, nothing learned"),
    Component("aggregation_last", {"aggregation": "last"}, "the last block of a stage alone"),
    Component("sigma_per_layer", {"sigma_per_layer": True}, "a sigma for each block instead of each stage"),
    Component("heads_shared", {"heads": "shared"}, "one head for all stages"),
    Component("heads_per_stage", {"heads": "per_stage"}, "one head a stage"),
    Component("head_fixed", {"train_head": False}, "the class vectors stay where the texts put them"),
    Component("head_start_text", {"head_start": "text"}, "start from the head trained on texts"),
    Component("fusion_learned", {"fusion": "learned"}, "stage weights are learned"),
    Component("fusion_uniform", {"fusion": "uniform"}, "all stages count alike, nothing learned"),
    Component("fusion_last", {"fusion": "last"}, "predict with the last stage; the others only train beside it"),
    Component("fusion_agreement", {"fusion": "agreement"}, "stages count by how well they agree with all"),
    Component("fusion_start_last", {"fusion_start": "last"}, "fusion starts on the last stage"),
    Component("fusion_start_uniform", {"fusion_start": "uniform"}, "fusion starts with equal weights"),
    Component("class_bias_off", {"class_bias": False}, "no class bias: the student does not start balanced"),
    Component("labels_softmax", {"labels": "softmax"}, "soft labels without balance"),
    Component("labels_argmax", {"labels": "argmax"}, "hard labels, as LaFTer's"),
    Component("labels_sinkhorn", {"labels": "sinkhorn"}, "soft labels balanced over the data set"),
    Component("labels_topk", {"labels": "topk"}, "the surest pictures of each class alone"),
    Component("labels_prototype", {"labels": "prototype"}, "text and image prototypes vote"),
    Component("labels_anchored_mixture", {"labels": "anchored_mixture"}, "Gaussians anchored to the texts"),
    Component("prior_estimated", {"prior": "estimated"}, "Sinkhorn aims at class shares found in the pictures"),
    Component("prior_uniform", {"prior": "uniform"}, "Sinkhorn aims at equal shares of all classes"),
    Component("prior_adaptive", {"prior": "adaptive"}, "class shares by how many classes there seem to be"),
    Component(
        "prior_half_own",
        {"prior": "uniform", "prior_power": 0.5},
        "Sinkhorn aims half way at the teacher's own class shares",
    ),
    Component("neighbours_10", {"neighbours": 10}, "the teacher is smoothed over ten nearest pictures"),
    Component("temperature_1", {"sinkhorn_epsilon": 1.0}, "CLIP's own temperature, as sure as descriptions make it"),
    Component("teacher_frozen", {"teacher": "frozen"}, "pictures are labelled once, before training"),
    Component("teacher_live", {"teacher": "live"}, "relabelled each epoch with the model as it is"),
    Component("teacher_ema", {"teacher": "ema"}, "relabelled each epoch with the moving average of the model"),
    Component("teacher_views_1", {"teacher_views": 1}, "the teacher sees one view of a picture"),
    Component("predict_views_1", {"predict_views": 1}, "a prediction sees one view: six times as fast"),
    Component("layer_norms_none", {"train_layer_norms": "none"}, "the tower's LayerNorms stay frozen"),
    Component("layer_norms_last_half", {"train_layer_norms": "last_half"}, "LayerNorms of the deeper half train"),
    Component("prompts_50", {"prompts": 50}, "50 prompt tokens, as LaFTer has"),
    Component("adapter_16", {"adapter_rank": 16}, "a residual adapter of rank 16 before the heads"),
    Component("consistency_0", {"consistency": 0.0}, "no stage-consistency loss"),
    Component("stage_loss_0", {"stage_loss": 0.0}, "the stages learn through the fused prediction alone"),
    Component("fairness_1", {"fairness": 1.0}, "a term that keeps a batch's mean prediction over all classes"),
    Component("view_lafter", {}, "LaFTer's augmentation, colour included", view="lafter"),
    Component("view_affect_safe", {}, "augmentation that leaves colour alone", view="affect_safe"),
    Component("view_none", {}, "no augmentation", view="none"),
)

COMPONENTS: dict[str, tuple[Component, ...]] = {"hybrid_cascade": _HYBRID_CASCADE}
"""Components by method; recipes add their own under `components:`."""


def component_changes(method: str, own: Mapping[str, RowChanges]) -> dict[str, RowChanges]:
    """Return the components of a method, those of the recipe last.

    Args:
        method: registry key.
        own: of the recipe; a name that exists already replaces it.

    Raises:
        SettingsError: there is none at all, or a component is called as the full method.
    """
    changes = {component.name: component.changes() for component in COMPONENTS.get(method, ())} | dict(own)
    if FULL in changes:
        raise SettingsError(f"components: {FULL!r} is the method that nothing is changed in; choose another name")
    if not changes:
        raise SettingsError(
            f"method {method!r} has no components to ablate; add some to the recipe under `components:`, such as "
            "`no_prompts: {settings: {prompts: 0}, why: what prompts are worth}`"
        )
    return changes
