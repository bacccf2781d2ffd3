"""What a machine is made of. Facts only: what they mean for a model is decided in panel.sizing."""
