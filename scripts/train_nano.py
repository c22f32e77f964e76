"""Train the nano CLIP that ships with the sandbox, with open_clip's own trainer.

    uv run --group nano python scripts/train_nano.py --work nano-run

(on Linux with glibc, MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 before it saves half the time)
makes the clean domain's pictures and captions in the work folder, trains
`src/hybridcascade/sandbox/nano/nano.json` on them with `open_clip_train`, stores the last epoch's weights
as fp16 safetensors in the package, and writes the command, the seed and the zero-shot figures on the
clean and the shifted test pictures to `nano_card.json` beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip_train.main import main as train_clip
from PIL import Image
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridcascade.sandbox.dataset import SandboxData, make_split
from hybridcascade.sandbox.texts import COVERAGE, TEMPLATES, captions
from hybridcascade.sandbox.world import EMOTIONS, bayes_ceiling

PACKAGE = Path(__file__).parents[1] / "src" / "hybridcascade" / "sandbox" / "nano"


def write_pictures(folder: Path, n: int, texts: int, seed: int) -> Path:
    """Write pictures and a tab-separated list of (file, caption), `texts` captions a picture."""
    listing = folder / "captions.tsv"
    if listing.exists():
        return listing
    data = make_split("pretrain", n, "clean", seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    files = [str(folder / "pictures" / f"{name}.bmp") for name in data.ids]
    for file, pixels in zip(files, data.images, strict=True):
        Image.fromarray(pixels).save(file)
    rows = [
        pd.DataFrame({"filepath": files, "title": captions(data.attributes, data.emotions, seed * 100 + t)})
        for t in range(texts)
    ]
    pd.concat(rows).to_csv(listing, sep="\t", index=False)
    return listing


def train(listing: Path, work: Path, args: argparse.Namespace) -> Path:
    """Run open_clip's trainer; return the last checkpoint."""
    open_clip.add_model_config(PACKAGE)
    command = ["--model", "nano", "--train-data", str(listing), "--dataset-type", "csv", "--logs", str(work)]
    command += ["--name", "train", "--batch-size", str(args.batch), "--epochs", str(args.epochs), "--lr", str(args.lr)]
    command += ["--warmup", str(args.warmup), "--wd", "0.1", "--beta2", "0.98", "--eps", "1e-6"]
    command += ["--precision", args.precision, "--workers", str(args.workers), "--seed", str(args.seed)]
    command += ["--grad-clip-norm", "1.0", "--log-every-n-steps", "50", "--save-most-recent", "--resume", "latest"]
    command += ["--pretrained", str(args.start)] if args.start else []
    with sdpa_kernel(SDPBackend.MATH):  # on CPUs the fused kernel's backward pass is several times slower
        train_clip(command)
    return work / "train" / "checkpoints" / f"epoch_{args.epochs}.pt"


@torch.no_grad()
def zero_shot_accuracy(model: open_clip.CLIP, data: SandboxData) -> float:
    """Zero-shot accuracy with the sandbox's templates, in per cent."""
    tokenizer = open_clip.get_tokenizer("nano")
    prototypes = []
    for name in EMOTIONS:
        features = model.encode_text(tokenizer([t.format(name) for t in TEMPLATES]), normalize=True)
        prototypes.append(torch.nn.functional.normalize(features.mean(0), dim=0))
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]
    right = 0
    for start in range(0, len(data), 500):
        x = torch.from_numpy(data.images[start : start + 500]).permute(0, 3, 1, 2).float() / 255
        logits = model.encode_image((x - mean) / std, normalize=True) @ torch.stack(prototypes).T
        right += int((logits.argmax(1).numpy() == data.emotions[start : start + 500]).sum())
    return 100 * right / len(data)


def pixel_moments(args: argparse.Namespace) -> dict[str, list[float]]:
    """Mean and standard deviation of each colour of the training pictures, in 0..1, from 10,000 of them."""
    pixels = make_split("train", min(args.pictures, 10_000), "clean", args.seed).images / 255
    return {
        "pixel_mean": pixels.mean(axis=(0, 1, 2)).round(4).tolist(),
        "pixel_std": pixels.std(axis=(0, 1, 2)).round(4).tolist(),
    }


def export(checkpoint: Path, args: argparse.Namespace) -> dict[str, object]:
    """Store the weights as fp16 safetensors and return the model's card."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    state = {k.removeprefix("module."): v for k, v in saved.items()}
    half = {k: v.to(torch.float16).contiguous() if v.is_floating_point() else v.contiguous() for k, v in state.items()}
    PACKAGE.mkdir(parents=True, exist_ok=True)
    save_file(half, PACKAGE / "nano.safetensors")
    model = open_clip.create_model("nano")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()})
    model.eval()
    test = {domain: make_split("test", 4000, domain, 0) for domain in ("clean", "shifted")}
    return {
        "what": "CLIP of the hybridcascade sandbox, trained on generated pictures only",
        "command": "python scripts/train_nano.py " + " ".join(sys.argv[1:]),
        "settings": {k: str(v) for k, v in vars(args).items()},
        "coverage": COVERAGE,
        **pixel_moments(args),
        "open_clip": open_clip.__version__,
        "torch": torch.__version__,
        "sha256": hashlib.sha256((PACKAGE / "nano.safetensors").read_bytes()).hexdigest(),
        "megabytes": round((PACKAGE / "nano.safetensors").stat().st_size / 1e6, 2),
        "zero_shot_accuracy": {domain: round(zero_shot_accuracy(model, data), 2) for domain, data in test.items()},
        "bayes_ceiling_accuracy": {
            "exact": round(100 * bayes_ceiling()["accuracy"], 2),
            "these_test_pictures": round(
                100 * float(np.mean(test["clean"].posterior.argmax(1) == test["clean"].emotions)), 2
            ),
        },
        "test_pictures": 4000,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, logs and checkpoints")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--captions", type=int, default=2, help="captions a picture")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--precision", default="amp_bf16")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="checkpoint to start from (weights alone)")
    parser.add_argument("--only-export", action="store_true", help="export the work folder's last checkpoint")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    open_clip.add_model_config(PACKAGE)
    checkpoint = args.work / "train" / "checkpoints" / f"epoch_{args.epochs}.pt"
    if not args.only_export:
        checkpoint = train(write_pictures(args.work, args.pictures, args.captions, args.seed), args.work, args)
    card = export(checkpoint, args)
    (PACKAGE / "nano_card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
