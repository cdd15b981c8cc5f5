"""Names that several parts of this package share."""

LOOPBACK = "127.0.0.1"
LLAMA_KEY = "LLAMA_API_KEY"  # as llama.cpp calls it
KEY = "COURSE_SERVER_KEY"  # in the environment, because everybody on a machine can read a command line
LOG, USAGE, OWNER = "server.log", "usage.jsonl", "owner.json"  # in a server's folder
FOLDERS = "course-server-"  # how its name begins
