"""An emulator of Websim for offline use and for tests: the two endpoints over real HTTP on loopback.

The emulator accepts every well-formed request and says in the response that it is the offline Websim. A program can
choose the next responses, make requests fail, and limit the rate. The emulator reads and writes no files.
"""

from .fault import Fault
from .limit import RateLimit
from .recorded import RecordedRequest
from .server import Emulator

__all__ = ["Emulator", "Fault", "RateLimit", "RecordedRequest"]
