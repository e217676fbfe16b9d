"""The step around the averagers: the wrapper, its parameters, gradients and closures.

`update` is the wrapped optimizer's own step, `agreement` compares ranks before they mix, `state_dicts` is about saving
and loading. `arguments` refuses what cannot work, before anything is changed. `notices` has a word about silent
mistakes.
May import: averagers, checks, errors, observe, passes, recovery, state, transports, untraced, world.
"""
