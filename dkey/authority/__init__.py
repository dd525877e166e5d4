"""The authority: accounts, roles and shares of vehicles, in process or over HTTP."""
