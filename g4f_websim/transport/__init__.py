"""How a request gets to Websim: attempts, connections, rate limits and proxies."""
