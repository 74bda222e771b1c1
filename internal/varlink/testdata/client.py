"""An independent client: calls METHOD with PARAMETERS at PATH, and prints each reply as a line."""
import json, socket, sys

path, method, parameters, more = sys.argv[1:5]
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
sock.sendall(json.dumps({"method": method, "parameters": json.loads(parameters), "more": more == "more"}).encode() + b"\0")
buffer = b""
while True:
    while b"\0" not in buffer:
        buffer += sock.recv(4096) or sys.exit("closed")
    message, buffer = buffer.split(b"\0", 1)
    reply = json.loads(message)
    print(json.dumps(reply, sort_keys=True))
    if not reply.get("continues"):
        break
