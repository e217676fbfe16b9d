"""What the step does around the averager: the wrapper, its parameters, gradients and closures.

`agreement` compares ranks before they mix, `drift` their learning rates; `carried`, `compared` and `moments` belong to
state_dicts. `checks/` refuses arguments before anything is changed.
May import: state, averagers, transports, world.
"""
