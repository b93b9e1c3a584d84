"""Prove that a refactoring changed nothing: print the SHA-256 of the final weights of eight short runs.

    python scripts/same_weights.py > before.txt              # at the commit before the change
    python scripts/same_weights.py --against before.txt      # after it: exit 1 and the names of the runs that differ

Every run has 30 steps in float32 on one CPU thread, which repeat to the last bit on one machine with one version of
PyTorch; hashes of different machines cannot be compared. The script takes about a minute. It uses only the command line
of the package, so that it works at any commit.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

MACHINE = "device=cpu precision=32 num_threads=1"
BUDGET = "iterations=30 eval_every=30 batch_size=4 unlabeled_batch_size=4 labeled_ratio=0.2"
PHANTOM = "dataset.num_train=10 dataset.num_val=1 dataset.num_test=1"
FOLDER = "dataset=folder dataset.root=pictures dataset.image_size=48 engine.resident_gib=0 engine.num_workers=2"
RUNS = {
    "supervised": f"method=supervised {PHANTOM}",
    "uamt": f"method=uamt {PHANTOM}",
    "bcp, both stages": f"method=bcp {PHANTOM}",
    "gan, two phases": f"method=gan {PHANTOM}",
    "st_plus_plus, three stages": f"method=st_plus_plus {PHANTOM}",
    "unimatch": f"method=unimatch {PHANTOM}",
    "u2pl": f"method=u2pl network=deeplabv3plus network.encoder=tu-test_resnet {PHANTOM}",
    "mean_teacher, pictures streamed from a folder": f"method=mean_teacher {FOLDER}",
}


def write_pictures(root: Path) -> None:
    """Write a folder of 20 colour pictures of a bright disc, with masks and lists."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:56, :64]
    for part in ("images", "masks", "lists"):
        (root / part).mkdir(parents=True)
    names = [f"p{number:02d}" for number in range(20)]
    for name in names:
        y, x, radius = rng.uniform(16, 40), rng.uniform(16, 48), rng.uniform(6, 14)
        mask = (np.hypot(row - y, column - x) < radius).astype(np.uint8)
        image = rng.normal(90, 30, (56, 64, 3)) + 80 * mask[..., None]
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    for split, part in (("train", names[:16]), ("val", names[16:18]), ("test", names[18:])):
        (root / "lists" / f"{split}.txt").write_text("\n".join(part) + "\n")
    (root / "dataset.yaml").write_text("classes: [background, disc]\n")


def weights_of(words: str, folder: Path) -> str:
    """Train and hash names, types, shapes and bytes of all tensors of the best (here: the only) checkpoint."""
    command = [sys.executable, "-m", "ssl4seg.train", *f"{MACHINE} {BUDGET} {words}".split()]
    done = subprocess.run([*command, f"hydra.run.dir={folder}/run"], cwd=folder.parent, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    state = torch.load(folder / "run/best.pt", weights_only=True)["method"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}".encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="file with the output of an earlier call")
    against = parser.parse_args().against
    before = dict(line.split("  ", 1)[::-1] for line in against.read_text().splitlines()) if against else {}
    changed = []
    with tempfile.TemporaryDirectory() as temporary:
        write_pictures(Path(temporary, "pictures"))
        for number, (name, words) in enumerate(RUNS.items()):
            digest = weights_of(words, Path(temporary, str(number)))
            print(f"{digest}  {name}", flush=True)
            if before and before.get(name) != digest:
                changed.append(name)
    if changed:
        sys.exit(f"other weights: {'; '.join(changed)}")


if __name__ == "__main__":
    main()
