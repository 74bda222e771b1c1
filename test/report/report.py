"""Binds a sock-file, reports it to the watcher, and dies at once by SIGKILL:

    report.py PATH [stay]

With "stay" it sleeps instead, when it has reported.
"""

import signal
import sys

import os
import socket


def report_bind(path):
    watcher = os.environ.get("SOCKWATCH_NOTIFY")
    if not watcher:
        return  # nobody watches
    if watcher[0] == "@":
        watcher = "\0" + watcher[1:]  # the abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(0.1)  # TimeoutError: the queue stayed full
        s.connect(os.fsencode(watcher))
        s.send(b"BIND=" + os.path.join(os.getcwdb(), os.fsencode(path)))


server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(sys.argv[1])
server.listen()
report_bind(sys.argv[1])
if len(sys.argv) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    signal.pause()
