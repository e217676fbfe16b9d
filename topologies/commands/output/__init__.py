"""The output of commands: `report` as text, tables or JSON, `units` as people write them; imports nothing of ours."""
