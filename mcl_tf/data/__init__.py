"""From files, data sets and arrays to batches of images."""
