"""Replaces `python` in the jobs of tests: sends the job to the server of `job_server`.

Called as `python -IS job_client.py SOCKET PYTHON ARGUMENT…`. It imports few modules, because it is
started for every job. If the job is not a program of this repository, the real interpreter, PYTHON,
runs it.
"""

import json
import os
import socket
import sys

address, python, *arguments = sys.argv[1:]
if arguments[0] != "-m" or not arguments[1].startswith(("workflow_scripts.", "tests.")):
    os.execv(python, [python, *arguments])
request = json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(address)
    socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(request)
    status = connection.recv(1)
sys.exit(status[0] if status else "tests/job_server.py has ended before this job")
