"""The offline Websim: the service's two endpoints over real HTTP on loopback, for offline use and for tests.

The emulator accepts every well-formed request and says in its answers that it is not the service. It can be told what
to reply, to fail, and to limit its rate. It reads no file and writes none.
"""

from .limit import RateLimit
from .server import Emulator, Fault, RecordedRequest

__all__ = ["Emulator", "Fault", "RateLimit", "RecordedRequest"]
