"""Ranks that are threads of one process: `transport`, over a `network` that can delay and lose messages.

May import: transports.
"""
