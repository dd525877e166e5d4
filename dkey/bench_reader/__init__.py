"""The bench tool: the reader role on a USB reader or a socket, step by step."""
