"""The console command `g4f-websim`."""
