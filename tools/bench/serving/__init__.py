"""Load for servers of OpenAI's API, and the runs that tools/bench/serve takes."""
