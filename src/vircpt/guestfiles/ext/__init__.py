"""ext2, ext3, ext4. After the Linux kernel's documentation of the on-disk format."""
