"""What Python programs do about the sock-file of a process, to be measured.

    peer.py parent SERVER PATH ADDRESS    each line on standard input: the server is started, waited for, and its sock-file removed
    peer.py poll PATH                     each line, a PID and more: it is asked every 100 ms whether there is such a process, until there is none

An object of JSON per line on standard output: {} at the start, {} when a PID is polled, and {} when the sock-file is gone.
"""

import os
import subprocess
import sys
import time


def tell():
    print("{}", flush=True)


def parent(argv):
    for _ in sys.stdin:
        subprocess.Popen(argv).wait()
        os.unlink(argv[1])
        tell()


def poll(path):
    for line in sys.stdin:
        pid = int(line.split()[0])
        tell()
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                os.unlink(path)
                break
            time.sleep(0.1)
        tell()


tell()
if sys.argv[1] == "parent":
    parent(sys.argv[2:])
else:
    poll(sys.argv[2])
