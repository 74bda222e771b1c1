"""A process that binds, and has a child that does, and so on; each then sleeps.

tree.py DIR DEPTH [report]   binds DIR/DEPTH, and says "DEPTH PID"; with "report" it tells its watcher
"""

import os
import socket
import sys
import time

directory, depth = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_UNIX)
path = f"{directory}/{depth}"
sock.bind(path)
sock.listen()
if "report" in sys.argv:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(f"BIND={path}\n".encode(), os.environ["SOCKWATCH_NOTIFY"])
print(depth, os.getpid(), flush=True)
if depth > 0 and os.fork() == 0:
    sock.close()
    os.execv(sys.executable, [sys.executable, __file__, directory, str(depth - 1), *sys.argv[3:]])
time.sleep(600)
