"""Train the embedded `digits-classifier`, whose features measure generated digits.

python examples/train_classifier.py --out runs/digits-classifier
"""

import argparse
import time

import torch

from retrograde import data
from retrograde.nets import Classifier
from retrograde.train.classify import accuracy, fit_classifier
from retrograde.zoo import ClassifierConfig, save_classifier

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/digits-classifier")
    parser.add_argument("--epochs", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Classifier()
    started = time.monotonic()
    last = fit_classifier(network, *data.digits("train"), epochs=given.epochs)
    seconds = time.monotonic() - started
    share = accuracy(network, *data.digits("test"))
    card = (
        f"# digits-classifier\n\n- data: `digits`, train split\n- training: {given.epochs} epochs, {seconds:.0f} s, "
        f"last loss {last:.4f}\n- test accuracy: {share:.4f}\n"
    )
    save_classifier(network, given.out, ClassifierConfig(name="digits-classifier"), card)
    print(f"{seconds:.0f} s, loss {last:.4f}, test accuracy {share:.4f}")
