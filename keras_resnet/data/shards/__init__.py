"""TFRecord shards: written by `data prepare`, and read in any order."""
