"""All-reduce inside each host, gossip between hosts.

    mpirun -n 8 --hostfile hosts python examples/hierarchical.py

Without a second host, in a clone of the repository and as root:

    python -m bench cluster --nodes 2 --ranks-per-node 2 --rate 1gbit -- python examples/hierarchical.py

Ranks of a host average their gradients in every step, and stay equal, bit for bit. Each of them exchanges parameters
with the ranks in its place on other hosts.
"""

import torch
from torch import nn

import gossip
import topologies

world = gossip.init()
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(world.device)
sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

graph = topologies.exponential(world.across.size)  # of hosts
averager = gossip.PushSum(world.across, graph, overlap=1)
optimizer = gossip.GossipOptimizer(sgd, averager, gradients=world.node, module=model)

generator = torch.Generator().manual_seed(world.rank)
for _ in range(200):
    inputs = torch.randn(16, 8, generator=generator).to(world.device)
    optimizer.zero_grad()
    loss = (model(inputs).squeeze(1) - inputs.sum(1).sin()).square().mean()
    loss.backward()
    optimizer.step()
optimizer.settle()

norm = nn.utils.parameters_to_vector(model.parameters()).double().norm().item()
print(f"{world.hosts[world.rank]}, rank {world.rank}: loss {loss.item():.3f}, norm of the parameters {norm.hex()}")
