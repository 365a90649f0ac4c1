"""Jobs: long work in processes of their own, such as preparing data and training a model."""
