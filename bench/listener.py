"""An event listener of supervisord, as its manual has it: it removes the sock-file of a program that has exited.

    listener.py PATH
"""

import os
import sys

from supervisor import childutils

while True:
    childutils.listener.wait()
    os.unlink(sys.argv[1])
    childutils.listener.ok()
