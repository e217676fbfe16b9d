"""What a command prints: `report` as text or JSON, `tables` in columns, `units` as people write them."""
