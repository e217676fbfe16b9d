"""Ranks that are threads of one process: `backend`, over a `network` that can delay and lose messages.

May import: errors, transports.
"""
