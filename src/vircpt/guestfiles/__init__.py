"""Partitions, volumes, file systems and files found in blocks.

    disks (Source) → layout.scan → Layout of Areas, each a Volume
    → filesystems.open_in → FileSystem → walk → Entry → changes.classify → Change
    index.record, index.compare: what was deleted or renamed since an earlier walk

All of this reads hostile bytes: it runs in the sandboxed child, in unit tests, and nowhere
else. It imports neither libvirt nor nbd, writes nothing, and raises Damaged or NotSupported.
"""
