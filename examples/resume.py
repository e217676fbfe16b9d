"""Save a run, and go on from there: after a crash, at the end of a time limit, or on another number of ranks.

    mpirun -n 4 python examples/resume.py out/run 100    # steps 0 to 99
    mpirun -n 4 python examples/resume.py out/run 200    # steps 100 to 199, with the bits of a run that never stopped
    mpirun -n 2 python examples/resume.py out/run 300    # on other ranks: from the weighted mean of the four
    python -m gossip.checkpoint out/run --export model.pt

The first argument is the folder, which all hosts see; the second the step before which the run ends.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import gossip
import slowmo
import topologies

folder, steps = Path(sys.argv[1]), int(sys.argv[2])

world = gossip.init()
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(world.device)
adam = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(adam, 50, gamma=0.9)
averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
optimizer = slowmo.SlowMo(gossip.GossipOptimizer(adam, averager, module=model), gossip.ExactAverage(world), period=12)

saved = gossip.checkpoint.load(folder, world, model=model, optimizer=optimizer, scheduler=scheduler)
first = saved.step if saved else 0
world.stop_requested()  # from here on SIGTERM, SIGUSR2 and Ctrl-C ask the loop to stop
print(f"rank {world.rank} of {world.size} begins at step {first}")

for step in range(first, steps):
    # The data of a step follow from its number, so that they are the same in a run that resumes.
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(step * 1000 + world.rank)).to(world.device)
    optimizer.zero_grad()
    loss = (model(inputs).squeeze(1) - inputs.sum(1).sin()).square().mean()
    loss.backward()
    optimizer.step()
    scheduler.step()
    stop = world.stop_requested()  # true on all ranks after a signal to any; a loop that does not ask for 30 s is ended
    if (step + 1) % 50 == 0 or step + 1 == steps or stop:
        gossip.checkpoint.save(folder, world, step + 1, model=model, optimizer=optimizer, scheduler=scheduler)
    if stop:
        break

norm = torch.nn.utils.parameters_to_vector(model.parameters()).double().norm().item()
print(f"rank {world.rank} of {world.size} ends at step {optimizer.steps}, norm of the parameters {norm.hex()}")
