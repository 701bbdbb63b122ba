"""What puts the service into the world: the cluster tool, images and install scripts."""
