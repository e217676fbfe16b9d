"""SlowMo whose exact averages travel while steps go on, one part of the model after another.

`streaming_slowmo` is the optimizer, `stream` sends averages, `fragments` cut the model, `applying` applies them.
"""
