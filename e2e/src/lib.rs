//! Tests that need root, namespaces or a cluster.
