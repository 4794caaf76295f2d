"""Inner dimensions: channels that some layers make and others read, with nothing between them that
mixes them. A network can have fewer of them and stay a network of the same layers."""
