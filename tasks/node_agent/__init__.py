"""The agent on a GPU node: carries out NodeFaults there and takes every one of them back."""
