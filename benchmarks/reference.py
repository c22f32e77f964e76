"""The plain reference: fp32, textbook attention, teacher and student recomputed in every step.

What one writes first, from the description of LaFTer (NeurIPS 2023) and of CLIP's vision transformer,
with frozen weights marked as frozen and nothing else done for speed. It shares no code with the library:
the weights come as a state dict in open_clip's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PlainAdamW", "PlainLafter", "PlainTower"]


class PlainTower:
    """CLIP's vision transformer in fp32 with softmax(QK^T / sqrt(d)) V written out.

    Args:
        weights: state dict of open_clip's vision tower; copied to fp32.
        heads: attention heads of a block.
        quick_gelu: whether the activation is `x * sigmoid(1.702 x)` (OpenAI's models) or GELU.
    """

    def __init__(self, weights: Mapping[str, Tensor], heads: int, quick_gelu: bool) -> None:
        self.weights = {name: value.detach().float().clone() for name, value in weights.items()}
        self.heads = heads
        self.quick_gelu = quick_gelu
        self.depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer.resblocks."))

    def layer_norm_names(self) -> list[str]:
        """Names of the weights and biases of all LayerNorms."""
        return [name for name in self.weights if ".ln_" in f".{name}"]

    def encode(self, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Image features, not normalised.

        Args:
            images: `[B, 3, H, W]`.
            prompts: tokens between CLS and patches, after `ln_pre`, `[1, M, D]`.

        Returns:
            `[B, E]`.
        """
        w = self.weights
        patch = w["conv1.weight"].shape[-1]
        x = F.conv2d(images, w["conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
        cls = w["class_embedding"].expand(len(x), 1, -1)
        x = torch.cat([cls, x], dim=1) + w["positional_embedding"]
        x = self._norm(x, "ln_pre")
        if prompts is not None:
            x = torch.cat([x[:, :1], prompts.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for block in range(self.depth):
            name = f"transformer.resblocks.{block}"
            x = x + self._attention(self._norm(x, f"{name}.ln_1"), f"{name}.attn")
            x = x + self._mlp(self._norm(x, f"{name}.ln_2"), f"{name}.mlp")
        return self._norm(x, "ln_post")[:, 0] @ w["proj"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _attention(self, x: Tensor, name: str) -> Tensor:
        batch, tokens, width = x.shape
        packed = F.linear(x, self.weights[f"{name}.in_proj_weight"], self.weights[f"{name}.in_proj_bias"])
        query, key, value = (
            part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in packed.chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, tokens, width)
        return F.linear(mixed, self.weights[f"{name}.out_proj.weight"], self.weights[f"{name}.out_proj.bias"])

    def _mlp(self, x: Tensor, name: str) -> Tensor:
        x = F.linear(x, self.weights[f"{name}.c_fc.weight"], self.weights[f"{name}.c_fc.bias"])
        x = x * torch.sigmoid(1.702 * x) if self.quick_gelu else F.gelu(x)
        return F.linear(x, self.weights[f"{name}.c_proj.weight"], self.weights[f"{name}.c_proj.bias"])


class PlainLafter:
    """LaFTer's image stage as its code has it: a live teacher, hard labels, all LayerNorms train.

    Args:
        tower: its LayerNorms are trained in place.
        prompts: start of the prompt tokens, `[1, M, D]`.
        head: the text-trained head, `[K, E]`; the teacher keeps it as it is.
        lr: AdamW's learning rate.
        weight_decay: AdamW's.
        smoothing: share of the uniform distribution in the target.
    """

    def __init__(
        self,
        tower: PlainTower,
        prompts: Tensor,
        head: Tensor,
        lr: float = 5e-4,
        weight_decay: float = 0.01,
        smoothing: float = 0.1,
    ) -> None:
        self.tower = tower
        self.smoothing = smoothing
        self.teacher_head = head.detach().float().clone()
        self.trained = {name: tower.weights[name] for name in tower.layer_norm_names()}
        self.trained["prompts"] = prompts.detach().float().clone()
        self.trained["head"] = head.detach().float().clone()
        for value in self.trained.values():
            value.requires_grad_(True)
        self.optimizer = PlainAdamW(self.trained.values(), lr, weight_decay)

    def loss(self, plain: Tensor, strong: Tensor) -> Tensor:
        """Cross-entropy of the student on strong views to the teacher's labels of plain views.

        Args:
            plain: `[B, 3, H, W]`.
            strong: `[B, 3, H, W]`.
        """
        with torch.no_grad():
            features = self.tower.encode(plain)
            features = features / features.norm(dim=-1, keepdim=True)
            labels = (features @ self.teacher_head.T).argmax(dim=-1)
        logits = self.tower.encode(strong, self.trained["prompts"]) @ self.trained["head"].T
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)

    def step(self, plain: Tensor, strong: Tensor) -> float:
        """One training step; returns its loss."""
        self.optimizer.zero_grad()
        loss = self.loss(plain, strong)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.item()


class PlainAdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019), a loop over tensors.

    Args:
        parameters: tensors that require gradients.
        lr: learning rate.
        weight_decay: decoupled, per unit of learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, betas, eps
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.steps = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters from their gradients."""
        self.steps += 1
        first_beta, second_beta = self.betas
        for parameter, (first, second) in zip(self.parameters, self.moments, strict=True):
            if parameter.grad is None:
                continue
            parameter.mul_(1 - self.lr * self.weight_decay)
            first.mul_(first_beta).add_(parameter.grad, alpha=1 - first_beta)
            second.mul_(second_beta).add_(parameter.grad**2, alpha=1 - second_beta)
            unbiased = (second / (1 - second_beta**self.steps)).sqrt() + self.eps
            parameter.sub_(self.lr / (1 - first_beta**self.steps) * first / unbiased)
