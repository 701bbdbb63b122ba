"""The whole topology on one machine without Docker: HAProxy, web instances and a real Cassandra, on loopback.

``python -m deploy.cluster`` runs it in the foreground. Tests and benchmarks use the
same code through :func:`start_cluster`, which starts that command and steers it.
"""

from deploy.cluster.client import RunningCluster, start_cluster
from deploy.cluster.errors import ClusterError
from deploy.cluster.plan import Options
from deploy.cluster.state import ProcessState
from deploy.cluster.tls import make_certificate

__all__ = ["ClusterError", "Options", "ProcessState", "RunningCluster", "make_certificate", "start_cluster"]
