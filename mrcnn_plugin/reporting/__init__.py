"""What a run leaves for a person: curves, pictures and tables of results."""
