"""Gossip over a graph of your own: a networkx graph for each of two rounds.

    mpirun -n 4 python examples/own_graph.py

Each rank has a number, and training moves all of them to the mean. The graph wants two ranks or more.
"""

import networkx
import torch

import gossip
import topologies


def swing(size):
    """Each rank gives half of its weight to its right neighbour, in the next round to its left one."""
    right = networkx.DiGraph([(i, (i + 1) % size, {"weight": 0.5}) for i in range(size)])
    return topologies.from_networkx([right, right.reverse()])


world = gossip.init()
value = torch.nn.Parameter(torch.zeros(1, device=world.device))
sgd = torch.optim.SGD([value], lr=0.1)
optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, swing(world.size)))

# Every rank pulls towards its own rank; together they minimise the sum of the squares.
for step in range(400):
    optimizer.param_groups[0]["lr"] = 0.1 / (1 + step / 10)
    optimizer.zero_grad()
    (value - world.rank).square().sum().backward()
    optimizer.step()

print(f"rank {world.rank} of {world.size}: {value.item():.2f}, and the mean of all ranks is {(world.size - 1) / 2}")
