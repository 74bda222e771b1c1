"""A child that binds sock-files and then ends, or is ended, in one way or another.

child.py WAY [TYPE:]PATH...   "{pid}" in a path is its own; "@chdir:DIR" changes the directory on the way
"""

import os
import signal
import socket
import sys
import time

way, *paths = sys.argv[1:]
types = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
held = []
for path in paths:
    if path.startswith("@chdir:"):
        os.chdir(path[len("@chdir:"):])
        continue
    kind, _, rest = path.partition(":")
    if kind not in types:
        kind, rest = "stream", path
    sock = socket.socket(socket.AF_UNIX, types[kind])
    sock.bind(rest.replace("{pid}", str(os.getpid())))
    if kind != "dgram" and way != "unlistened":
        sock.listen()
    held.append(sock)

if way == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if way == "heir" and os.fork() == 0:
    print("heir", os.getpid(), flush=True)
    sys.stdin.read()  # until the test hangs up
    os._exit(0)
if way != "heir":
    print("ready", os.getpid(), flush=True)

if way == "segv":
    os.kill(os.getpid(), signal.SIGSEGV)
elif way == "_exit":
    os._exit(3)
elif way == "unlink":
    for sock in held:
        os.unlink(sock.getsockname())
    sys.exit(0)
elif way == "exit":
    sys.exit(0)
time.sleep(600)
