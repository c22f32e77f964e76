"""The numbers of every method, one file a family; torch-free. `methods.settings` has the table of them."""
