"""btrfs. After the on-disk format as its documentation tells it."""
