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

CARD = """\
# digits-classifier

A classifier of 28x28 digits whose 64 penultimate features compare sets of images.

- data: `digits`, train split. MNIST (LeCun, Cortes, Burges), 10,000 images of it as embedded in `retrograde.data`; the
  images are under CC BY-SA 3.0
- network: `Classifier`, {parameters:,} parameters, stored as float32
- training: `python examples/train_classifier.py`; {epochs} epochs in {seconds:.0f} s, last loss {last:.4f}
- licence of the weights: that of the library; made from the data above
- accuracy on the test split (1,000 items): {share:.4f}
"""

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
    parameters = sum(p.numel() for p in network.parameters())
    card = CARD.format(parameters=parameters, epochs=given.epochs, seconds=seconds, last=last, share=share)
    save_classifier(network, given.out, ClassifierConfig(name="digits-classifier"), card)
    print(f"{seconds:.0f} s, loss {last:.4f}, test accuracy {share:.4f}")
