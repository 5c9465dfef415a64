"""What versus-llama-cpp and quality are made of."""
