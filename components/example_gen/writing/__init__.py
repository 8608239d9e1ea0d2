"""From files of images to shards of records."""
