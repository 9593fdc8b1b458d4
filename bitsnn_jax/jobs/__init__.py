"""What the commands do: typed options in, typed results out."""
