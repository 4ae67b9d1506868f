"""Tables of results: a row per class, per split into known and unknown classes, or per dataset of anomalies."""
