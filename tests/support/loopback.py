"""The loopback address, and a port on it that refuses connections."""

import socket

HOST = "127.0.0.1"


def refusing_socket() -> socket.socket:
    """Return a socket that is bound to a free port but does not listen.

    Until it is closed, connections to the port are refused and no other server can take the port.
    """
    bound = socket.socket()
    bound.bind((HOST, 0))
    return bound
