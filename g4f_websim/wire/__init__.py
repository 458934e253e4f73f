"""What Websim accepts and returns: endpoints, request bodies, responses and tokens."""
