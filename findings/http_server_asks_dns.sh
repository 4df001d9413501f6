#!/usr/bin/env bash
# Python's http.server, bound to an address, asks the name service for that address's name before it serves.
#
# Version: Python 3.11 (http.server of the standard library).
# The guess that missed: a server on 127.0.0.1 talks to nothing but its clients.
# Seen: HTTPServer.server_bind calls socket.getfqdn(host), so each start is a reverse look-up of the address, which may
# go to a name server, and waits for it. Nothing in a plain request handler needs the result; binding with
# socketserver.TCPServer.server_bind and setting server_name and server_port avoids it.
set -euo pipefail
python3 - <<'PY'
import http.server
import socket
import socketserver
import sys

asked = []
real = socket.gethostbyaddr
socket.gethostbyaddr = lambda name: (asked.append(name), real(name))[1]
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler):
    pass
print("Python", sys.version.split()[0], "looked up by HTTPServer:", asked)
assert asked == ["127.0.0.1"]
asked.clear()


class Quiet(http.server.ThreadingHTTPServer):
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


with Quiet(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler):
    pass
print("with TCPServer.server_bind:", asked)
assert asked == []
PY
