"""Train the small CLIP of the lab: the sandbox's architecture, on clean pictures of a folder with labels.

    python scripts/train_lab.py --data ../shared/data/cifar10 --out ../lab/nano_cifar.safetensors

reads the split `train` of the folder (a manifest with labels, CIFAR-10 in 32 x 32 pixels), keeps the share
0..0.7 of its pictures (by the hash of their ids, `hybridcascade.data.shares`), and trains
`src/hybridcascade/sandbox/nano/nano.json` on them with template captions. The share 0.7..1 and the split `test` are
never read for training: the lab adapts to the one, without labels, and tests on the other. The file is
then loaded as `nano@../lab/nano_cifar.safetensors`; a card `nano_cifar.json` with the command and the figures
is written beside it. The weights are not shipped.

It is CLIP's loss from pictures to captions with one caption a class and step. open_clip's own loss would
count the captions of other pictures of the same class as wrong, which is every tenth with ten classes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transformer import PatchDropout
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridcascade.data.shares import take_share
from hybridcascade.data.sources import PictureSource, open_source
from hybridcascade.data.texts import TEMPLATE_SETS, build_texts

NANO = Path(__file__).parents[1] / "src" / "hybridcascade" / "sandbox" / "nano"
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
STD = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]


def pictures(source: PictureSource, size: int = 64) -> tuple[Tensor, Tensor]:
    """Return pictures uint8 `[N, 3, size, size]`, resized as for evaluation, and labels int64 `[N]`."""
    resized = [np.asarray(source.open(row).resize((size, size), 3)) for row in range(len(source))]  # 3: bicubic
    labels = [sample.label for sample in source.samples]
    assert all(label is not None for label in labels), "every picture needs a label"
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def augment(images: Tensor, draw: torch.Generator) -> Tensor:
    """Crop (half of the area and more), flip and recolour a batch uint8 `[B, 3, S, S]` -> float 0..1."""
    x, n = images.float() / 255, len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape or (n,), generator=draw)

    scale = uniform(0.5, 1.0).sqrt()
    aspect = torch.exp(uniform(-0.2, 0.2))
    wide, tall = (scale * aspect).clamp(max=1), (scale / aspect).clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = wide * (1 - 2 * torch.randint(0, 2, (n,), generator=draw))
    theta[:, 1, 1] = tall
    theta[:, 0, 2] = uniform(-1, 1) * (1 - wide)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - tall)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    x = x * uniform(0.7, 1.3, n, 1, 1, 1)
    x = x + (x - x.mean((1, 2, 3), keepdim=True)) * uniform(-0.3, 0.3, n, 1, 1, 1)
    x = x + (x - x.mean(1, keepdim=True)) * uniform(-0.3, 0.3, n, 1, 1, 1)
    return x.clamp(0, 1)


def mix(x: Tensor, target: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """In a quarter of the batches paste a rectangle of another picture (CutMix, Yun et al. 2019)."""
    if torch.rand((), generator=draw) < 0.75:
        return x, target
    size = x.shape[-1]
    side = int(size * math.sqrt(float(torch.rand((), generator=draw))))
    top, left = (int(torch.randint(0, size - side + 1, (), generator=draw)) for _ in range(2))
    order = torch.randperm(len(x), generator=draw)
    x = x.clone()
    x[:, :, top : top + side, left : left + side] = x[order, :, top : top + side, left : left + side]
    share = side * side / size**2
    return x, (1 - share) * target + share * target[order]


def load_start(model: open_clip.CLIP, start: str) -> None:
    """Fill the model with the weights of a safetensors file; `nano` is the sandbox's."""
    path = NANO / "nano.safetensors" if start == "nano" else Path(start)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / 0.07))


def decayed(model: open_clip.CLIP, decay: float) -> list[dict[str, object]]:
    """Parameter groups: weight decay for matrices only, as open_clip has it."""
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]
    vectors = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def train(model: open_clip.CLIP, images: Tensor, labels: Tensor, captions: Tensor, args: argparse.Namespace) -> None:
    """Train in place; the weights at the end are their running mean. `captions` int64 `[K, T, context]`."""
    draw = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(decayed(model, args.wd), lr=args.lr, betas=(0.9, 0.98), eps=1e-6)
    steps_an_epoch = len(images) // args.batch
    total, step, began = args.epochs * steps_an_epoch, 0, time.perf_counter()
    mean = copy.deepcopy(model)
    classes = len(captions)
    for epoch in range(args.epochs):
        losses, done = [], epoch / args.epochs
        # Fewer patches are faster (FLIP, Li et al. 2023); towards the end the model sees more, then all of them.
        drop = next(share for until, share in ((0.72, args.drop), (0.92, args.drop * 2 / 3), (1, 0.0)) if done < until)
        model.visual.patch_dropout = PatchDropout(drop) if drop else torch.nn.Identity()
        for rows in torch.randperm(len(images), generator=draw)[: steps_an_epoch * args.batch].split(args.batch):  # type: ignore[no-untyped-call]
            warm = min(1.0, (step + 1) / args.warmup)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))
            x, target = mix(augment(images[rows], draw), F.one_hot(labels[rows], classes).float(), draw)
            texts = captions[torch.arange(classes), torch.randint(0, captions.shape[1], (classes,), generator=draw)]
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                seen = model.encode_image((x - MEAN) / STD, normalize=True)
                said = model.encode_text(texts, normalize=True)
            logits = model.logit_scale.exp() * seen.float() @ said.float().T
            loss = F.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
                keep = min(0.998, step / (step + 10))
                torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), 1 - keep)
            losses.append(loss.detach())
            step += 1
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}/{args.epochs}: loss {torch.stack(losses).mean():.3f}, {seconds:.0f} s", flush=True)
        if (epoch + 1) % 4 == 0:
            save(mean, args.out.with_suffix(".part.safetensors"))
    model.load_state_dict(mean.state_dict())


@torch.no_grad()
def accuracy(model: open_clip.CLIP, images: Tensor, labels: Tensor, captions: Tensor) -> float:
    """Zero-shot accuracy in per cent, prototypes as means of the captions' features."""
    model.eval()
    prototypes = torch.stack([F.normalize(model.encode_text(c, normalize=True).mean(0), dim=0) for c in captions])
    parts = [model.encode_image((x.float() / 255 - MEAN) / STD, normalize=True) for x in images.split(500)]  # type: ignore[no-untyped-call]
    model.train()
    return 100 * float(((torch.cat(parts) @ prototypes.T).argmax(1) == labels).float().mean())


def write_record(images: Tensor, path: Path) -> dict[str, list[float]]:
    """Write open_clip's config beside the weights, with the moments of the training pictures' colours (0..1)."""
    x = (images.float() / 255).transpose(0, 1).flatten(1)
    moments = {
        "pixel_mean": [round(v, 5) for v in x.mean(1).tolist()],
        "pixel_std": [round(v, 5) for v in x.std(1).tolist()],
    }
    config = {"model_cfg": json.loads((NANO / "nano.json").read_text()), "preprocess_cfg": moments}
    (path.parent / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return moments


def tokens(classes: list[str], model_name: str = "nano") -> Tensor:
    """Tokens of the templates of every class, int64 `[K, T, context]`."""
    tokenizer = open_clip.get_tokenizer(model_name)
    texts = build_texts(classes, "templates", TEMPLATE_SETS["general"])
    found: Tensor = tokenizer([text.text for text in texts])
    return found.reshape(len(classes), -1, found.shape[1])


def save(model: open_clip.CLIP, path: Path) -> str:
    """Store fp16 weights; return the file's SHA-256."""
    state = model.state_dict()
    half = {k: v.to(torch.float16).contiguous() if v.is_floating_point() else v.contiguous() for k, v in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, splits train and test")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write (.safetensors)")
    parser.add_argument("--share", type=float, default=0.7, help="share of the training pictures that is used")
    parser.add_argument("--start", default="nano", help="safetensors to start from, `nano`, or `none`")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--wd", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=150, help="steps")
    parser.add_argument("--drop", type=float, default=0.75, help="share of patches left out at first")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = arguments()
    torch.manual_seed(args.seed)
    open_clip.add_model_config(NANO)
    model = open_clip.create_model("nano")
    if args.start != "none":
        load_start(model, args.start)
    source = open_source(args.data, split="train")
    classes = list(source.classes or ())
    images, labels = pictures(take_share(source, 0.0, args.share))
    test_images, test_labels = pictures(open_source(args.data, classes, split="test"))
    captions = tokens(classes)
    model.train()
    model.token_embedding.requires_grad_(False)  # 49,408 words, of which the captions have a few dozen
    began = time.perf_counter()
    with sdpa_kernel(SDPBackend.MATH):  # on CPUs the fused kernel's backward pass is several times slower
        train(model, images, labels, captions, args)
    digest = save(model, args.out)
    card = {
        "what": "small CLIP of the hybridcascade lab, ours, trained on clean pictures with template captions",
        "command": "python scripts/train_lab.py " + " ".join(sys.argv[1:]),
        "settings": {k: str(v) for k, v in vars(args).items()},
        "classes": classes,
        "training_pictures": len(images),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "zero_shot_accuracy": {
            "training pictures": round(accuracy(model, images, labels, captions), 2),
            "test pictures": round(accuracy(model, test_images, test_labels, captions), 2),
        },
        **write_record(images, args.out),
        "open_clip": open_clip.__version__,
        "torch": torch.__version__,
        "sha256": digest,
    }
    args.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
