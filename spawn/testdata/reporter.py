"""Children that bind, report, and are SIGKILLed at once.

reporter.py DIR N
"""

import os
import signal
import socket
import sys

directory, n = sys.argv[1], int(sys.argv[2])
address = os.environ["SOCKWATCH_NOTIFY"]
for i in range(n):
    pid = os.fork()
    if pid == 0:
        path = f"{directory}/{i}"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(f"BIND={path}".encode(), address)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
