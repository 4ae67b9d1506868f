"""The page of a run, `report.html`: one file without references to others, which a browser shows without a network."""
