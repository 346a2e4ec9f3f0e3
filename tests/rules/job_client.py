"""What stands in the place of `python` in a job: gives the job to the server of `job_server`.

Called as `python -IS job_client.py SOCKET PYTHON ARGUMENT…`. It imports next to nothing, because it
starts with every job. Anything but a program of this repository is left to PYTHON, the real one.
"""

import json
import os
import socket
import sys

address, python, *arguments = sys.argv[1:]
if arguments[0] != "-m" or not arguments[1].startswith("workflow_scripts."):
    os.execv(python, [python, *arguments])
request = json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(address)
    socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(request)
    status = connection.recv(1)
sys.exit(status[0] if status else "the server of jobs has ended")
