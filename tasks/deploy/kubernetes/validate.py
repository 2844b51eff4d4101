"""Problems of the Kubernetes parameters that a single field cannot show."""

from __future__ import annotations

from tasks.stack import KubernetesDeployParams


def validate_deploy_params(params: KubernetesDeployParams, where: str = "deploy") -> list[str]:
    """One line per problem, each naming the key below ``where``; empty when ``params`` can be rendered."""
    raise NotImplementedError
