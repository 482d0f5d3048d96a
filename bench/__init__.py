"""What tidings costs, measured beside hand-written raw loops with the same durability."""
