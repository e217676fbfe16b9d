"""What a GPU has to show: `command` is the command line and starts process sets, `merging` sets the merge beside the
memory's bandwidth, `training` has real networks to train, `steps` sets OSGP's step beside the bare one on all ranks,
`processes` starts ranks that share a GPU, `report` is the Markdown.
"""
