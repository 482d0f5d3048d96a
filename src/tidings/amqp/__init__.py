"""RabbitMQ, taken apart: what `brokers/rabbitmq.py` is made of."""
