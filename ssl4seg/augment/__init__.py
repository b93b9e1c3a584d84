"""What is done to images and labels once they are tensors: photometric operations and mixing."""
