"""Verbs that look into a guest's disks, run in a child that can do nothing else.

    parent: sandbox.run(verb, disks) ──request──▶ child: lock down ─▶ verbs ─▶ guestfiles
            typed, checked answers   ◀──frames──         NBD sockets ─▶ blocks.nbd

The parent's half is `sandbox`, the child's half `child`, `lockdown`, `verbs`; both share
`wire`, `codec` and `messages`. What the child says is hostile: whoever rules a guest's disk
may rule the child. Hence only the parent's half is imported outside of the child.
"""
