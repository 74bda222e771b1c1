"""What the actor runtime tractor does with sock-files, and what it leaves behind of them:

    tractor.py root DIR

The root holds registry@1616.sock in DIR; the number is no pid. What it is to do comes on standard input, line by line, and
what has happened is said on standard output, by the children, too:

    spawn NAME DIR    start a child, which holds NAME@PID.sock in DIR, and blocks in a synchronous sleep
    actor NAME DIR    start one that does what it is told next
    tell NAME HOW     tell it how it is to die: exit, segv or raise
    cancel NAME       ask a child by SIGTERM, which it ignores, and kill it after half a second

At the end of its input the root kills all children, and ends as they do: with no hand for its file. Nobody here
unlinks anything. With TRACTOR_REPORTS set each process reports what it has bound.
"""

import os
import signal
import socket
import subprocess
import sys
import time


def report_bind(path):
    if not os.environ.get("TRACTOR_REPORTS"):
        return
    watcher = os.environ["SOCKWATCH_NOTIFY"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect(watcher)
        s.send(b"BIND=" + os.fsencode(path))


def serve(name, directory, number):
    path = os.path.join(directory, "%s@%d.sock" % (name, number))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen()
    report_bind(path)
    say(name, os.getpid(), path)
    return server


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one write: lines of several processes do not mix


def child(name, directory, obeys):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = serve(name, directory, os.getpid())  # open to the end
    how = sys.stdin.readline().strip() if obeys else "sleep"
    if how == "exit":
        os._exit(3)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "raise":
        raise RuntimeError("crash")
    time.sleep(3600)


class Root:
    def __init__(self, directory):
        self.server = serve("registry", directory, 1616)
        self.children = {}

    def spawn(self, name, directory, stdin=subprocess.DEVNULL):
        argv = [sys.executable, __file__, "child", name, directory] + ["obeys"] * (stdin is not subprocess.DEVNULL)
        self.children[name] = subprocess.Popen(argv, stdin=stdin)

    def actor(self, name, directory):
        self.spawn(name, directory, subprocess.PIPE)

    def tell(self, name, how):
        actor = self.children.pop(name)
        actor.communicate(how.encode() + b"\n")
        say(name, "ended", actor.returncode)

    def cancel(self, name):
        actor = self.children.pop(name)
        actor.terminate()
        try:
            actor.wait(0.5)
        except subprocess.TimeoutExpired:
            actor.kill()
        say(name, "ended", actor.wait())


def main():
    role, *args = sys.argv[1:]
    if role == "child":
        child(args[0], args[1], len(args) > 2)
    root = Root(args[0])
    for line in sys.stdin:
        verb, *args = line.split()
        getattr(root, verb)(*args)
    for actor in root.children.values():
        actor.kill()
        actor.wait()
    os._exit(0)


main()
