"""Where stacks run, as the orchestration sees it: one module per backend, chosen by ``deploy.backend``."""
