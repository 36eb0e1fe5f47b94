"""NTFS. After the documentation of the Linux-NTFS project."""
