"""The lab: a private libvirtd and small VMs that tests may do anything to."""
