"""The public calls: thin, typed, documented."""

# Loaded with any of them, since it says what to do when a call needs a cluster and there is none.
from cloudray.api import session as session
