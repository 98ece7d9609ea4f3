"""What several processes send beside their gradients."""
