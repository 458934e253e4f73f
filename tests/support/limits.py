"""The time limit for what a test waits for: a response, an event or a process."""

# What a test waits for usually takes less than a second, but a process may take longer on a busy machine.
MAX_SECONDS = 60
