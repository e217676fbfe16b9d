"""Lightning over ranks that gossip: OSGP and slow momentum on scikit-learn's digits.

    python examples/lightning_digits.py 2             # Lightning starts two processes on this host
    mpirun -n 4 python examples/lightning_digits.py   # or any other launcher: torchrun, srun

Needs `pip install 'gossip-runtime[lightning]' scikit-learn`. The last line is the accuracy of the mean of all ranks.
"""

import sys

import lightning
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

import gossip
import slowmo
from gossip.integrations.lightning import GossipStrategy, osgp


class Digits(lightning.LightningModule):
    """A network for images of 8x8 pixels."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

    def training_step(self, batch, _):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.model(images), labels)

    def validation_step(self, batch, _):
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [sgd], [torch.optim.lr_scheduler.CosineAnnealingLR(sgd, EPOCHS)]


def compose(optimizer, world, module):
    """OSGP over the exponential graph, and slow momentum on top."""
    return slowmo.SlowMo(osgp(optimizer, world, module), gossip.ExactAverage(world), period=48)


EPOCHS = 12
digits = load_digits()
images, labels = torch.tensor(digits.images / 16).float().flatten(1), torch.tensor(digits.target)
train_images, test_images, train_labels, test_labels = train_test_split(images, labels, test_size=0.2, random_state=0)
train = DataLoader(TensorDataset(train_images, train_labels), batch_size=32, shuffle=True)
test = DataLoader(TensorDataset(test_images, test_labels), batch_size=90)

trainer = lightning.Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    devices=int(sys.argv[1]) if len(sys.argv) > 1 else 1,
    strategy=GossipStrategy(compose),
    default_root_dir="out/lightning",
    logger=False,
)
trainer.fit(Digits(), train, test)
if trainer.is_global_zero:
    print(f"{trainer.world_size} ranks: test accuracy {trainer.callback_metrics['accuracy']:.1%}")
