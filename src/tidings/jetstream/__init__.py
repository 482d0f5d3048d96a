"""The inside of the NATS adapter: frames and connections, the state of groups in a bucket, reading parts."""
