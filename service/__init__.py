"""The front process: gRPC servicers, validation, streaming, health, metrics, engine supervision."""
