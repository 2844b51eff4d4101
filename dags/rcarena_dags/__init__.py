"""What the DAG files share. Imported at every parse: nothing heavy, nothing that asks the network."""
