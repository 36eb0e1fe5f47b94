"""XFS, versions 4 and 5. After the on-disk format as the kernel documents it."""
