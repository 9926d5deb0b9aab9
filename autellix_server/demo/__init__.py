"""`autellix demo`: real agents on a real server, shown live."""
