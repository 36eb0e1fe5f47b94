"""The only room that sees libvirt."""

import os

# The embedded driver logs like a daemon, and on stderr unless told otherwise before libvirt
# is loaded, which the modules of this room do.
os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "1:file:/dev/null")
