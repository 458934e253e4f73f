"""How long a test waits for a response, an event or a process that takes milliseconds unless something is wrong."""

MAX_SECONDS = 60
