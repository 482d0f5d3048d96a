"""Moving house: the events of an embedded file go to another broker, or two brokers are kept connected."""
