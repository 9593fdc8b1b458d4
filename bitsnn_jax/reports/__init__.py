"""Pages and pictures, drawn from results alone."""
