import os
import tempfile

import stress

# The short form has seconds; SOCKWATCH_STRESS=LIVES is the long one, in which the control must lose sockets, too.
LIVES = int(os.environ.get("SOCKWATCH_STRESS", "0"))


def test_no_live_socket_is_lost():
    places = [tempfile.gettempdir()] + ["/dev/shm"] * os.access("/dev/shm", os.W_OK)
    ours, controls = stress.run(places, LIVES or 10**9, 3600 if LIVES else 0.5)
    assert ours == 0
    if LIVES:
        assert controls > 0
