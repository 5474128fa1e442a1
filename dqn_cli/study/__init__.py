"""Reading what runs have left: loading, statistics, pictures, a page."""
