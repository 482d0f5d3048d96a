"""What `brokers/kafka.py` is made of: settings, headers, publishing, consuming, and what a partition remembers."""
