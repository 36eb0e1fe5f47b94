"""What is wrong with checkpoints, exports, guests and hosts, why, and how it is repaired.

facts.py      what libvirt, QEMU and the images say of one domain, each for itself
verdicts.py   the three held against each other, per checkpoint and disk; pure
findings.py   all that can be found, with ids; docs/doctor.md has a section for each
bitmaps.py, chain.py, disks.py, exports.py, agent.py, host.py   what each family finds
examine.py    all families asked in turn
repair.py     findings put right
"""
