"""The output of commands: `report` as text or JSON, `tables` in columns, `units` as people write them."""
