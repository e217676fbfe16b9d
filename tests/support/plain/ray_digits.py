"""DistributedDataParallel on the workers of Ray Train: examples/ray_digits.py without gossip, which a test compares.

    python tests/support/plain/ray_digits.py FOLDER WORKERS EPOCHS

A second start with the same folder goes on from the last epoch.
"""

import sys
import tempfile
from pathlib import Path

import torch
from ray import train
from ray.train.torch import TorchTrainer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


def train_loop(config):
    """What each worker does."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16).float().flatten(1), torch.tensor(digits.target)
    train_images, test_images, train_labels, test_labels = train_test_split(images, labels, random_state=0)
    loader = DataLoader(TensorDataset(train_images, train_labels), batch_size=32, shuffle=True, drop_last=True)
    loader = train.torch.prepare_data_loader(loader)  # a shard of the images for each worker

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = train.torch.prepare_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    first_epoch = 0
    if checkpoint := train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder, "state.pt"))
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch = saved["epoch"] + 1

    for epoch in range(first_epoch, config["epochs"]):
        if train.get_context().get_world_size() > 1:
            loader.sampler.set_epoch(epoch)
        for batch, answers in loader:
            optimizer.zero_grad()
            cross_entropy(model(batch), answers).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
        state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder, "state.pt"))
            checkpoint = train.Checkpoint.from_directory(folder) if train.get_context().get_world_rank() == 0 else None
            train.report({"accuracy": accuracy, "epoch": epoch}, checkpoint=checkpoint)


if __name__ == "__main__":
    folder, workers, epochs = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"epochs": epochs},
        scaling_config=train.ScalingConfig(num_workers=workers),
        run_config=train.RunConfig(name="digits", storage_path=str(folder)),
    )
    print(f"{workers} workers: {trainer.fit().metrics}")
