"""Lightning: a strategy for its Trainer. Every optimizer gossips, and the mean of all ranks is evaluated and saved.

    trainer = lightning.Trainer(devices=2, strategy=GossipStrategy(compose))

Importing this room registers the strategy, so that `strategy="gossip"` gives overlapping stochastic gradient push.
`strategy` holds the strategy, `launched` the place of a process that mpirun, torchrun or srun started. `validation` is
a callback that evaluates the mean, and `metrics` lets metrics of torchmetrics gather over the World. `refusals` holds
checks of arguments.
May import: checks, consensus, errors, integrations, launching, training, transports, world.
"""

try:
    from lightning.pytorch.strategies import StrategyRegistry
except ImportError as error:
    raise ImportError(
        f"gossip.integrations.lightning needs Lightning ({error}): pip install 'gossip-runtime[lightning]'"
    ) from error

from ..composing import osgp
from .strategy import GossipStrategy

__all__ = ["GossipStrategy", "osgp"]

StrategyRegistry.register("gossip", GossipStrategy, "Overlapping stochastic gradient push", override=True)
