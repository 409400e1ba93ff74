"""The command `classifier`: train the models that the filter's safety and quality stages judge with."""
