"""What the commands write down, as types: JSON is read back into the same ones."""
