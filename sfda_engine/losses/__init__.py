"""One term of the paper a file; each is a plain function of tensors that returns a scalar."""
